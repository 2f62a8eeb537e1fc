"""cluster.yaml, by the checks that `ray up` makes of it, against an AWS that moto plays."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

from serve_app.config import log_settings, read_config
from serve_app.config.fast_paths import HA_PROXY, ON, THROUGHPUT_OPTIMIZED
from serve_app.config.sections import EngineConfig
from serve_app.deployment_options import engine_options, ingress_options

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster.yaml"
GROUP = "sg-0123456789abcdef0"
# What an operator makes first: open for its own members, and for SSH from one address.
SSH_FROM = "198.51.100.7/32"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The file as `ray up` has it when it begins to launch nodes."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # for the key pair
        Path(os.environ["HOME"], ".ssh").mkdir()
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
        from ray.autoscaler._private.util import prepare_config, validate_config

        logging.getLogger("ray").setLevel(logging.WARNING)
        document = prepare_config(yaml.safe_load(FILE.read_text()))
        validate_config(document)
        document = AWSNodeProvider.fillout_available_node_types_resources(document)
        document = json.loads(json.dumps(document).replace(GROUP, make_security_group(document)))
        yield bootstrap_aws(document)  # type: ignore[no-untyped-call]


def make_security_group(document: dict[str, Any]) -> str:
    ec2 = boto3.client("ec2", document["provider"]["region"])
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group: str = ec2.create_security_group(GroupName="gpt-oss", Description="-", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]},
            {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": SSH_FROM}]},
        ],
    )
    return group


def test_ray_takes_it_and_opens_nothing(cluster: dict[str, Any]) -> None:
    """Ray's own security group would let the world try its SSH."""
    groups = boto3.client("ec2", cluster["provider"]["region"]).describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"default", "gpt-oss"}
    [ours] = [group for group in groups if group["GroupName"] == "gpt-oss"]
    addresses = {found["CidrIp"] for rule in ours["IpPermissions"] for found in rule.get("IpRanges", [])}
    assert addresses == {SSH_FROM}
    for node_type in cluster["available_node_types"].values():
        assert node_type["node_config"]["SecurityGroupIds"] == [ours["GroupId"]]


@pytest.mark.parametrize("config", ["prod.yaml", "prod-120b.yaml"])
def test_its_nodes_have_what_the_config_asks_for(cluster: dict[str, Any], config: str) -> None:
    args = read_config(ROOT / "configs" / config)
    node = cluster["available_node_types"]["h100"]
    actor = engine_options(args)["ray_actor_options"]
    assert node["resources"]["GPU"] >= actor["num_gpus"]
    assert node["resources"]["CPU"] >= actor["num_cpus"] * node["resources"]["GPU"]
    assert f"accelerator_type:{actor['accelerator_type']}" in node["resources"]
    assert node["min_workers"] == 0
    assert node["max_workers"] == cluster["max_workers"] >= args.engine.max_replicas
    # Ingress replicas go where there is no GPU, which is the head.
    [(label, value)] = ingress_options(args)["ray_actor_options"]["label_selector"].items()
    assert value == f"!{node['labels'][label]}"
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"].get("GPU", 0) == 0
    assert head["resources"]["CPU"] >= args.ingress.replicas * args.ingress.num_cpus


def test_the_nodes_gpu_is_the_instances(cluster: dict[str, Any]) -> None:
    """What is written in the file is what EC2 says of the instance type."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    written = yaml.safe_load(FILE.read_text())["available_node_types"]["h100"]["resources"]
    bare: dict[str, Any] = json.loads(json.dumps(cluster))
    bare["available_node_types"]["h100"]["resources"] = {}
    found = AWSNodeProvider.fillout_available_node_types_resources(bare)["available_node_types"]["h100"]
    assert written.items() <= found["resources"].items()


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_starts_with_the_fast_paths_and_a_token(cluster: dict[str, Any], commands: str) -> None:
    start = cluster[commands][-1]
    environment = dict(re.findall(r"\b([A-Z_]+)=(\S+)", start))
    assert environment[HA_PROXY] == environment[THROUGHPUT_OPTIMIZED] == ON
    assert log_settings.problem(environment) is None
    assert environment["RAY_AUTH_MODE"] == "token"
    program = environment["RAY_SERVE_HAPROXY_BINARY_PATH"].removeprefix("$HOME/gpt-oss-serve/")
    assert os.access(ROOT / program, os.X_OK)
    assert environment["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == str(
        int(read_config(ROOT / "configs/prod.yaml").drain_limit_s)
    )
    assert "~/.ray/auth_token" in yaml.safe_load(FILE.read_text())["file_mounts"]


def test_the_dashboard_listens_on_loopback(cluster: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


def test_volumes_are_encrypted_and_metadata_needs_a_token(cluster: dict[str, Any]) -> None:
    for node_type in cluster["available_node_types"].values():
        config = node_type["node_config"]
        assert config["MetadataOptions"]["HttpTokens"] == "required"
        assert all(device["Ebs"]["Encrypted"] for device in config["BlockDeviceMappings"])
        assert "IamInstanceProfile" in config


def test_the_nodes_get_what_their_environment_is_made_from(cluster: dict[str, Any]) -> None:
    """And an environment that was made there is not copied over."""
    mounts = yaml.safe_load(FILE.read_text())["file_mounts"]
    mounts.pop("~/.ray/auth_token")
    assert all(place == f"~/gpt-oss-serve/{source}" for place, source in mounts.items())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"serve_app", "scripts", "requirements", "configs", "pyproject.toml"}
    assert set(mounts.values()) == needed | {project["readme"], *project["license-files"]}
    assert all((ROOT / source).exists() for source in mounts.values())


def test_its_scripts_are_there(cluster: dict[str, Any]) -> None:
    text = "\n".join(cluster["setup_commands"])
    scripts = re.findall(r"~/gpt-oss-serve/(\S+)", text)
    assert {"scripts/nvme", "scripts/environment"} <= set(scripts)
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)


def test_the_delay_that_a_comment_names_is_the_default() -> None:
    named = re.findall(r"engine\.downscale_delay_s \((\d+) s\)", FILE.read_text())
    assert named == [f"{EngineConfig.model_fields['downscale_delay_s'].default:g}"]


def test_every_block_says_why() -> None:
    """A comment stands before each key of the first two levels that decides something."""
    lines = FILE.read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"[a-z_]+:", line)]
    obvious = {"provider:", "auth:", "available_node_types:", "head_node_type: head"}
    for number in keys:
        if lines[number] not in obvious and "worker_start" not in lines[number]:
            assert lines[number - 1].startswith("#"), lines[number]


# --- scripts/nvme --------------------------------------------------------------------------------------

# Stand in for the commands that change a machine; each writes down how it was called.
LSBLK = """#!/bin/bash
case "$*" in
*NAME,MODEL*) printf '%s\\n' "$DEVICES" ;;
*NAME,LABEL*) [[ ! -e $ASSEMBLED ]] || printf '%s\\n' "$LABELLED" ;;
*LABEL*) printf '%s\\n' "$MEMBERS" ;;
*MOUNTPOINT*) printf '%s\\n' "$MOUNTED" ;;
*FSTYPE*) printf '%s\\n' "$FSTYPE" ;;
esac
"""
SUDO = """#!/bin/bash
echo "$*" >>"$CALLS"
case $1 in
mkdir | chown) exec "$@" ;;
e2fsck) exit "$FSCK" ;;
mdadm) touch "$ASSEMBLED" ;;
esac
"""
EBS = "/dev/nvme0n1 Amazon Elastic Block Store"
STORE = "Amazon EC2 NVMe Instance Storage"


def run_nvme(
    tmp_path: Path,
    devices: list[str],
    mounted: str = "",
    fstype: str = "",
    labelled: str = "",
    members: str = "",
    fsck: int = 0,
) -> list[str]:
    """What scripts/nvme does on such a machine.

    `labelled` is what lsblk says of the file system, once a device of several `members` is assembled.
    """
    commands, calls = tmp_path / "bin", tmp_path / "calls"
    commands.mkdir(exist_ok=True)
    for name, text in {"lsblk": LSBLK, "sudo": SUDO}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    calls.write_text("")
    (tmp_path / "assembled").unlink(missing_ok=True)
    if not members:
        (tmp_path / "assembled").touch()
    environment = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "CALLS": str(calls),
        "DEVICES": "\n".join(devices),
        "MOUNTED": mounted,
        "FSTYPE": fstype,
        "LABELLED": labelled,
        "MEMBERS": members,
        "ASSEMBLED": str(tmp_path / "assembled"),
        "FSCK": str(fsck),
        "SERVE_NVME_MOUNT": str(tmp_path / "nvme"),
    }
    subprocess.run([ROOT / "scripts/nvme"], env=environment, check=True, capture_output=True)
    return calls.read_text().splitlines()


def test_nvme_of_one_device(tmp_path: Path) -> None:
    calls = run_nvme(tmp_path, [EBS, f"/dev/nvme1n1 {STORE}"])
    assert any(call.startswith("mkfs.ext4") and call.endswith(" /dev/nvme1n1") for call in calls)
    assert f"mount -o noatime /dev/nvme1n1 {tmp_path}/nvme" in calls
    assert not any("nvme0n1" in call or "mdadm" in call for call in calls)
    cache = tmp_path / "home/.cache/serve_app"
    assert cache.resolve() == tmp_path / "nvme/serve_app"


def test_nvme_of_eight_devices_is_striped(tmp_path: Path) -> None:
    names = [f"/dev/nvme{number}n1" for number in range(1, 9)]
    calls = run_nvme(tmp_path, [EBS, *(f"{name} {STORE}" for name in names)])
    [create] = [call for call in calls if call.startswith("mdadm")]
    assert "--level=0 --raid-devices=8" in create
    assert create.endswith(" ".join(names))
    assert any(call.startswith("mkfs.ext4") and call.endswith(" /dev/md/nvme") for call in calls)


def test_nvme_that_is_mounted_is_used_and_nothing_is_formatted(tmp_path: Path) -> None:
    mount = tmp_path / "opt/dlami/nvme"
    mount.mkdir(parents=True)
    calls = run_nvme(tmp_path, [EBS, f"/dev/nvme1n1 {STORE}"], str(mount))
    assert not any(call.startswith(("mkfs", "mount", "mdadm")) for call in calls)
    assert (tmp_path / "home/.cache/serve_app").resolve() == mount / "serve_app"


def test_nvme_keeps_what_the_cache_held_and_may_run_again(tmp_path: Path) -> None:
    cache = tmp_path / "home/.cache/serve_app"
    cache.mkdir(parents=True)
    (cache / "file").write_text("kept")
    devices = [f"/dev/nvme1n1 {STORE}"]
    run_nvme(tmp_path, devices)
    assert cache.is_symlink()
    run_nvme(tmp_path, devices, str(tmp_path / "nvme"))
    assert (cache / "file").read_text() == "kept"


def test_nvme_that_holds_something_is_not_formatted(tmp_path: Path) -> None:
    assert run_nvme(tmp_path, [EBS, f"/dev/nvme1n1 {STORE}"], fstype="LVM2_member") == []


def test_without_instance_store_nothing_changes(tmp_path: Path) -> None:
    assert run_nvme(tmp_path, [EBS]) == []
    assert not (tmp_path / "home").exists()


# --- after a reboot ------------------------------------------------------------------------------------

NAMES = ["/dev/nvme1n1", "/dev/nvme2n1"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A link to what is mounted no longer."""
    run_nvme(tmp_path, [EBS, f"{NAMES[0]} {STORE}"])
    (tmp_path / "nvme/serve_app").rmdir()
    cache = tmp_path / "home/.cache/serve_app"
    assert cache.is_symlink()
    assert not cache.exists()
    return cache


def is_on(cache: Path, folder: Path) -> bool:
    (cache / "file").write_text("")
    return (folder / "file").exists()


@pytest.mark.parametrize("fsck", [0, 1])
def test_nvme_is_mounted_again(tmp_path: Path, cache: Path, fsck: int) -> None:
    device = NAMES[0]
    calls = run_nvme(
        tmp_path, [EBS, f"{device} {STORE}"], fstype="ext4", labelled=f"{device} serve_app", fsck=fsck
    )
    assert f"e2fsck -p {device}" in calls
    assert f"mount -o noatime {device} {tmp_path}/nvme" in calls
    assert not any(call.startswith(("mkfs", "mdadm")) for call in calls)
    assert is_on(cache, tmp_path / "nvme/serve_app")


@pytest.mark.parametrize("is_assembled", [True, False])
def test_the_striped_nvme_is_mounted_again(tmp_path: Path, cache: Path, is_assembled: bool) -> None:
    calls = run_nvme(
        tmp_path,
        [EBS, *(f"{name} {STORE}" for name in NAMES)],
        fstype="linux_raid_member",
        labelled="/dev/md127 serve_app\n/dev/md127 serve_app",
        members="" if is_assembled else "host:nvme\nhost:nvme",
    )
    assembled = f"mdadm --assemble --run /dev/md/nvme {' '.join(NAMES)}"
    assert [call for call in calls if "mdadm" in call] == ([] if is_assembled else [assembled])
    assert f"mount -o noatime /dev/md127 {tmp_path}/nvme" in calls
    assert is_on(cache, tmp_path / "nvme/serve_app")


@pytest.mark.parametrize(
    "machine",
    [
        {"devices": [EBS]},
        {"devices": [EBS, f"{NAMES[0]} {STORE}"], "fstype": "LVM2_member"},
        {"devices": [EBS, f"{NAMES[0]} {STORE}"], "fstype": "ext4", "labelled": f"{NAMES[0]} other"},
        {
            "devices": [EBS, f"{NAMES[0]} {STORE}"],
            "fstype": "ext4",
            "labelled": f"{NAMES[0]} serve_app",
            "fsck": 4,
        },
        {"devices": [EBS, f"{NAMES[0]} {STORE}"], "fstype": "linux_raid_member", "members": "host:data"},
    ],
    ids=["another type of instance", "somebody else's", "another label", "damaged", "another stripe"],
)
def test_a_cache_whose_nvme_is_gone_is_a_folder_of_the_root_disk(
    tmp_path: Path, cache: Path, machine: dict[str, Any]
) -> None:
    calls = run_nvme(tmp_path, **machine)
    assert not any(call.startswith(("mkfs", "mount", "mdadm")) for call in calls)
    assert not cache.is_symlink()
    assert is_on(cache, cache)
    run_nvme(tmp_path, **machine)
    assert (cache / "file").exists()


def test_an_empty_nvme_is_formatted_again(tmp_path: Path, cache: Path) -> None:
    """As after a stop."""
    calls = run_nvme(tmp_path, [EBS, f"{NAMES[0]} {STORE}"])
    assert any(call.startswith("mkfs.ext4") and "-L serve_app" in call for call in calls)
    assert is_on(cache, tmp_path / "nvme/serve_app")
