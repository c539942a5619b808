"""The nuScenes tables as the devkit opens them, checked first: whole, thinned to each N-th keyframe, or some of the keyframes."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nuscenes.nuscenes import NuScenes

from uniad.errors import UserError
from uniad.files import read_outside
from uniad.formats import nuscenes as schema
from uniad.formats.layout import CAMERAS, LIDAR
from uniad.formats.nuscenes import Record

LARGEST_TABLE = 16 << 30  # bytes; nuScenes' sample_data.json has more than one GiB



class Tables(NuScenes):
    """NuScenes whose records fit ``uniad.formats.nuscenes``.

    every: of each scene's keyframes only each N-th stays, from the first on. samples: tokens of the keyframes that stay; a scene
    without any is left out. What is left is linked as if it had been recorded so: samples and annotations name the next one that
    stays, and the sensor data of the others are sweeps between keyframes.
    """

    # The devkit says that its tables are dicts.
    scene: list[Record]
    sample: list[Record]
    sample_data: list[Record]
    sample_annotation: list[Record]
    visibility: list[Record]

    def __init__(self, root: str | Path, version: str, every: int = 1, samples: Collection[str] | None = None) -> None:
        self._every, self._samples = every, samples
        try:
            super().__init__(version=version, dataroot=str(root), verbose=False)
        except (ValueError, KeyError, AssertionError, TypeError) as error:
            where = Path(root) / version
            raise UserError(f"the tables in {where} cannot be read ({error}): unpack the metadata again") from error

    def __load_table__(self, table_name: str) -> Any:
        path = f"{self.table_root}/{table_name}.json"
        try:
            records = json.loads(read_outside(path, LARGEST_TABLE))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged or cut short ({error}): unpack the metadata again") from None
        return schema.check_table(table_name, records, path) if table_name in schema.TABLES else records

    def __make_reverse_index__(self, verbose: bool) -> None:
        tables = {name: getattr(self, name) for name in schema.TABLES}
        schema.check_references(tables, self.table_root)
        schema.check_chains(tables, self.table_root)
        keyframes = schema.check_keyframes(tables, self.table_root, (LIDAR, *CAMERAS))
        schema.check_motion(tables, self.table_root, keyframes, LIDAR)
        if self._every > 1 or self._samples is not None:
            self._keep(self._chosen())
        super().__make_reverse_index__(verbose)

    def _chosen(self) -> set[str]:
        """Tokens of the samples that stay."""
        known = {record["token"]: record for record in self.sample}
        if self._samples is not None:
            absent = next((token for token in self._samples if token not in known), None)
            if absent is not None:
                raise UserError(f"{self.table_root}/sample.json has no sample {absent}; the infos were made from other tables")
            return set(self._samples)
        chosen = set()
        for scene in self.scene:
            number, token = 0, scene["first_sample_token"]
            while token:
                if number % self._every == 0:
                    chosen.add(token)
                number, token = number + 1, known[token]["next"]
        return chosen

    def _keep(self, chosen: set[str]) -> None:
        samples = {record["token"]: record for record in self.sample}
        annotations = {record["token"]: record for record in self.sample_annotation}
        # Sweeps belong to the keyframe that follows them; after the last one, to that.
        belongs = {token: _next(samples, token, "next", chosen) or _next(samples, token, "prev", chosen) for token in samples}
        stay = {token for token, record in annotations.items() if record["sample_token"] in chosen}
        for records, keep in ((samples, chosen), (annotations, stay)):
            links = {(token, key): _next(records, records[token][key], key, keep) for token in keep for key in ("prev", "next")}
            for (token, key), other in links.items():
                records[token][key] = other
        self.sample = [record for record in self.sample if record["token"] in chosen]
        self.sample_annotation = [record for record in self.sample_annotation if record["token"] in stay]
        self._keep_scenes()
        self.sample_data = [record for record in self.sample_data if belongs[record["sample_token"]]]
        for record in self.sample_data:
            if record["sample_token"] not in chosen:
                record["is_key_frame"] = False
                record["sample_token"] = belongs[record["sample_token"]]
        kept = {record["token"] for record in self.sample_data}
        for record in self.sample_data:
            for key in ("prev", "next"):
                if record[key] not in kept:
                    record[key] = ""
        self._keep_instances()

    def _keep_scenes(self) -> None:
        members: dict[str, list[Record]] = {}
        for record in self.sample:
            members.setdefault(record["scene_token"], []).append(record)
        self.scene = [record for record in self.scene if record["token"] in members]
        for record in self.scene:
            own = sorted(members[record["token"]], key=lambda sample: sample["timestamp"])
            record["nbr_samples"] = len(own)
            record["first_sample_token"], record["last_sample_token"] = own[0]["token"], own[-1]["token"]

    def _keep_instances(self) -> None:
        """An instance's place in its table is its number in the infos, so all of them stay."""
        first, last, count = {}, {}, {}
        for record in self.sample_annotation:
            instance = record["instance_token"]
            count[instance] = count.get(instance, 0) + 1
            if not record["prev"]:
                first[instance] = record["token"]
            if not record["next"]:
                last[instance] = record["token"]
        for record in self.instance:
            token = record["token"]
            record["nbr_annotations"] = count.get(token, 0)
            record["first_annotation_token"], record["last_annotation_token"] = first.get(token, ""), last.get(token, "")


def _next(records: dict[str, Record], token: str, key: str, keep: Collection[str]) -> str:
    """The first of a chain, from ``token`` on, that stays; nothing where none does. Chains end: ``check_chains``."""
    while token and token not in keep:
        token = records[token][key]
    return token
