"""The vector map (map expansion 1.3) and the semantic-prior mask of a town, in the genuine files' structure."""

from __future__ import annotations

import json
import math
from pathlib import Path as FilePath

import cv2
import numpy as np
from shapely.geometry import CAP_STYLE, LineString

from uniad.data.synthetic.curves import Path
from uniad.data.synthetic.markings import dividers, stop_lines
from uniad.data.synthetic.params import token
from uniad.data.synthetic.roads import LANE_M, Town

MASK_PX_PER_M = 10
ARC_M = 0.03  # how far an arcline record's end may lie off its path
# The devkit's BitMap looks for the masks under the genuine files' names.
MASK_FILES = {
    "singapore-onenorth": "maps/53992ee3023e5494b90c316c183be829.png",
    "singapore-hollandvillage": "maps/37819e65e09e5547b8a3ceaefba56bb2.png",
    "singapore-queenstown": "maps/93406b464a165eaba6d9de76ca09f5da.png",
    "boston-seaport": "maps/36092f0b03a857c6a3403e25b4b7aab3.png",
}
LAYERS = (
    "polygon", "line", "node", "drivable_area", "road_segment", "road_block", "lane", "ped_crossing", "walkway",
    "stop_line", "carpark_area", "road_divider", "lane_divider", "traffic_light", "lane_connector",
)  # fmt: skip


def parts(geometry) -> list:
    """The polygons of a polygon or multipolygon that are worth the name."""
    return [g for g in getattr(geometry, "geoms", [geometry]) if g.geom_type == "Polygon" and g.area > 0.01]


class _Writer:
    """Collects records. Points closer than a millimetre share a node, as neighbours do in the genuine maps."""

    def __init__(self, seed: int, location: str) -> None:
        self.key = (seed, "map", location)
        self.layers: dict[str, list[dict]] = {name: [] for name in LAYERS}
        self.nodes: dict[tuple[int, int], str] = {}

    def token(self, *words: object) -> str:
        return token(*self.key, *words)

    def node(self, xy: np.ndarray) -> str:
        at = (round(float(xy[0]) * 1000), round(float(xy[1]) * 1000))
        if at not in self.nodes:
            self.nodes[at] = self.token("node", *at)
            self.layers["node"].append({"token": self.nodes[at], "x": at[0] / 1000, "y": at[1] / 1000})
        return self.nodes[at]

    def add(self, layer: str, *words: object, **fields: object) -> str:
        made = self.token(layer, *words)
        self.layers[layer].append({"token": made, **fields})
        return made

    def polygon(self, exterior, holes=()) -> str:
        def ring(points) -> list[str]:
            points = np.asarray(points)[:, :2]
            if np.allclose(points[0], points[-1]):
                points = points[:-1]
            return list(dict.fromkeys(self.node(xy) for xy in points))

        return self.add(
            "polygon",
            len(self.layers["polygon"]),
            exterior_node_tokens=ring(exterior),
            holes=[{"node_tokens": ring(hole)} for hole in holes],
        )

    def line(self, points) -> str:
        return self.add("line", len(self.layers["line"]), node_tokens=[self.node(xy) for xy in points])


def arcs(path: Path) -> list[dict]:
    """A path as arcs and straight pieces, in the arcline record's terms. Each is as long as it stays on the path."""
    records = []
    i, last = 0, len(path.yaw) - 1
    while i < last:
        piece = _arc(path, i, i + 1)
        j = i + 1
        while j < last:
            longer = _arc(path, i, j + 1)
            if np.hypot(longer["end_pose"][0] - path.xy[j + 1, 0], longer["end_pose"][1] - path.xy[j + 1, 1]) > ARC_M:
                break
            piece, j = longer, j + 1
        records.append(piece)
        i = j
    return records


def _arc(path: Path, i: int, j: int) -> dict:
    """The arc that leaves sample i of a path along it and turns as much as the path does up to sample j."""
    (x, y), yaw = path.xy[i].tolist(), float(path.yaw[i])
    length, turn = (j - i) * path.step, float(path.yaw[j]) - yaw
    bend = turn / length
    chord = length if abs(turn) < 1e-9 else 2 * math.sin(turn / 2) / bend
    straight = abs(bend) < 1e-6
    return {
        "start_pose": [x, y, yaw],
        "end_pose": [x + chord * math.cos(yaw + turn / 2), y + chord * math.sin(yaw + turn / 2), yaw + turn],
        "shape": "LSR" if straight else ("LSL" if bend > 0 else "RSR"),
        "radius": 1e6 if straight else 1 / abs(bend),
        "segment_length": [0.0, length, 0.0] if straight else [length, 0.0, 0.0],
    }


def map_record(seed: int, town: Town) -> dict:
    """All layers of maps/expansion/<location>.json."""
    w = _Writer(seed, town.location)
    area = w.token("drivable_area", 0)
    segments, blocks = _streets(w, town, area)
    w.add("drivable_area", 0, polygon_tokens=[w.polygon(g.exterior.coords, [h.coords for h in g.interiors])
                                              for g in parts(town.drivable)])  # fmt: skip
    for i, g in enumerate(parts(town.walkway)):
        w.add("walkway", i, polygon_token=w.polygon(g.exterior.coords, [h.coords for h in g.interiors]))
    for c in town.crossings:
        w.add("ped_crossing", c.id, polygon_token=w.polygon(c.polygon), road_segment_token=segments[c.road])
    for i, (road, corners) in enumerate(town.carparks):
        heading = float(np.arctan2(*town.roads[road].direction[::-1]))
        w.add("carpark_area", i, polygon_token=w.polygon(corners), orientation=heading,
              road_block_token=blocks[road, town.roads[road].b])  # fmt: skip
    for i, line in enumerate(stop_lines(town)):
        block = blocks[line.road, line.junction]
        middle, ahead = line.polygon.mean(axis=0), town.junctions[line.junction].xy
        light = w.add(
            "traffic_light", i, line_token=w.line([middle, middle + 0.3 * (middle - ahead) / np.linalg.norm(middle - ahead)]),
            traffic_light_type="VERTICAL", from_road_block_token=block,
            items=[{"color": color, "shape": "CIRCLE", "rel_pos": {"tx": 0.0, "ty": 0.0, "tz": tz, "rx": 0.0, "ry": 0.0,
                    "rz": 0.0}, "to_road_block_tokens": []} for color, tz in (("RED", 0.6), ("YELLOW", 0.3), ("GREEN", 0.0))],
            pose={"tx": float(middle[0]), "ty": float(middle[1]), "tz": 4.5, "rx": 0.0, "ry": 0.0,
                  "rz": float(np.arctan2(*(middle - ahead)[::-1]))},
        )  # fmt: skip
        w.add(
            "stop_line", i, polygon_token=w.polygon(line.polygon), stop_line_type="TRAFFIC_LIGHT",
            ped_crossing_tokens=[] if line.crossing is None else [w.token("ped_crossing", line.crossing)],
            traffic_light_tokens=[light], road_block_token=block,
        )  # fmt: skip
    for i, d in enumerate(dividers(town)):
        line = w.line(d.line)
        if d.kind == "road":
            w.add("road_divider", i, line_token=line, road_segment_token=segments[d.road])
        else:
            style = "SINGLE_DASHED_WHITE" if d.dashed else "SINGLE_SOLID_WHITE"
            nodes = [{"node_token": w.node(xy), "segment_type": style} for xy in d.line]
            w.add("lane_divider", i, line_token=line, lane_divider_segments=nodes)
    connectivity, arcline = _lanes(w, town)
    return {
        "version": "1.3", "canvas_edge": list(town.size), **w.layers,
        "connectivity": connectivity, "arcline_path_3": arcline,
    }  # fmt: skip


def _streets(w: _Writer, town: Town, area: str) -> tuple[dict[int, str], dict[tuple[int, int], str]]:
    """Road segments, and road blocks by (road, junction that the block leads to)."""
    segments, blocks = {}, {}
    for junction in town.junctions:
        w.add("road_segment", "junction", junction.id, polygon_token=w.polygon(junction.polygon),
              is_intersection=True, drivable_area_token=area)  # fmt: skip
    for road in town.roads:
        borders = road.borders()
        # All border ends are corners of the outline, so that lanes and blocks share their end nodes with it.
        ring = [road.point(0.0, lat) for lat in borders[::-1]] + [road.point(road.length, lat) for lat in borders]
        segments[road.id] = w.add("road_segment", "road", road.id, polygon_token=w.polygon(ring),
                                  is_intersection=False, drivable_area_token=area)  # fmt: skip
        for forward in (True, False):
            start, end = (0.0, road.length) if forward else (road.length, 0.0)
            edge = (-town.side if forward else town.side) * road.half
            first, last = ([road.point(along, lat) for lat in (0.0, edge)] for along in (start, end))
            blocks[road.id, road.b if forward else road.a] = w.add(
                "road_block", road.id, int(forward), polygon_token=w.polygon([*first, *last[::-1]]),
                from_edge_line_token=w.line(first), to_edge_line_token=w.line(last), road_segment_token=segments[road.id],
            )  # fmt: skip
    return segments, blocks


def _lanes(w: _Writer, town: Town) -> tuple[dict[str, dict], dict[str, list[dict]]]:
    connectivity, arcline = {}, {}
    lane_token = [w.token("lane", lane.id) for lane in town.lanes]
    link_token = [w.token("lane_connector", link.id) for link in town.connectors]
    for lane in town.lanes:
        segments = {}
        for name, border in (("left", lane.left), ("right", lane.right)):
            segments[f"{name}_lane_divider_segments"] = [
                {"node_token": w.node(xy), "segment_type": "NIL" if i else "SINGLE_SOLID_WHITE"} for i, xy in enumerate(border)
            ]
        w.add(
            "lane", lane.id, polygon_token=w.polygon([*lane.left, *lane.right[::-1]]), lane_type="CAR",
            from_edge_line_token=w.line([lane.left[0], lane.right[0]]),
            to_edge_line_token=w.line([lane.left[1], lane.right[1]]), **segments,
        )  # fmt: skip
        arcline[lane_token[lane.id]] = arcs(lane.path)
        connectivity[lane_token[lane.id]] = {
            "incoming": [link_token[link.id] for link in town.connectors if link.target == lane.id],
            "outgoing": [link_token[i] for i in lane.next],
        }
    for link in town.connectors:
        strip = LineString(np.concatenate([link.path.xy[:-1:4], link.path.xy[-1:]])).buffer(LANE_M / 2, cap_style=CAP_STYLE.flat)
        w.add("lane_connector", link.id, polygon_token=w.polygon(parts(strip)[0].exterior.coords))
        arcline[link_token[link.id]] = arcs(link.path)
        connectivity[link_token[link.id]] = {
            "incoming": [lane_token[link.source]], "outgoing": [lane_token[link.target]]}  # fmt: skip
    return connectivity, arcline


def semantic_prior(town: Town) -> np.ndarray:
    """Drivable surface and walkways, 255 on 0, 0.1 m a pixel, north up: [height, width] uint8."""
    width, height = (int(round(edge * MASK_PX_PER_M)) for edge in town.size)
    mask = np.zeros((height, width), np.uint8)
    for geometry in (town.walkway, town.drivable):
        for g in parts(geometry):
            rings = [np.asarray(ring.coords)[:, :2] for ring in (g.exterior, *g.interiors)]
            flipped = [np.round(r * [MASK_PX_PER_M, -MASK_PX_PER_M] + [0, height]).astype(np.int32) for r in rings]
            cv2.fillPoly(mask, flipped, 255)
    return mask


def write_map(root: FilePath, seed: int, town: Town) -> None:
    """Writes maps/expansion/<location>.json and the mask under root."""
    (root / "maps" / "expansion").mkdir(parents=True, exist_ok=True)
    text = json.dumps(map_record(seed, town))
    (root / "maps" / "expansion" / f"{town.location}.json").write_text(text)
    ok, png = cv2.imencode(".png", semantic_prior(town), [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE])
    assert ok
    (root / MASK_FILES[town.location]).write_bytes(png.tobytes())
