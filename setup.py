"""A wheel carries the command lines of tools/ too, so that `uniad VERB` runs without a clone. All else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TOOLS = Path(__file__).parent / "tools"
# They look at a clone, or make one: nothing to do elsewhere
IN_A_CLONE = {"configure.py", "doctor.py", "preflight.py", "setup_env.py", "uniad_tree.py"}


class WithTools(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # the clone's own are used
        target = Path(self.build_lib) / "uniad" / "_tools"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for tool in sorted(TOOLS.glob("*.py")):
            if tool.name not in IN_A_CLONE:
                shutil.copy(tool, target)


setup(cmdclass={"build_py": WithTools})
