"""Reads a task as SkyPilot would launch it: its schema, its resources, its mounts.

usage: python scripts/cloud/check_skypilot.py TASK.yaml      (skypilot)
"""
import sys
import sky
from sky.utils import common_utils, schemas, yaml_utils

path = sys.argv[1]
task = yaml_utils.read_yaml(path)
common_utils.validate_schema(task, schemas.get_task_schema(), f"{path}: ")
common_utils.validate_schema(task["resources"], schemas.get_resources_schema(), f"{path}: resources: ")
for place, mount in task["file_mounts"].items():
    common_utils.validate_schema(mount, schemas.get_storage_schema(), f"{path}: {place}: ")
print(sky.Resources.from_yaml_config(task["resources"]))
