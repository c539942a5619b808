"""What colcon builds: an ament_python package."""

from setuptools import setup

NAME = "uniad_node"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/uniad.launch.py"]),
        (f"share/{NAME}/config", ["config/uniad.yaml", "config/topics.json"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="The maintainers of this repository",
    maintainer_email="maintainers@example.org",
    description="UniAD on a running car, as a lifecycle node",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"uniad_node = {NAME}.node:main"]},
)
