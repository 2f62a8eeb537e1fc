"""What docs/operations.md gives to AWS and to Serve: policies, the security group, the config, commands."""

from __future__ import annotations

import base64
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.iam.policy_validation import IAMPolicyDocumentValidator

from serve_app import sealing_key, stage
from serve_app.config import AppConfig
from serve_app.config.sections import IngressConfig
from serve_app.deployment_options import engine_options, ingress_options

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()
FILES = {
    name: json.loads(body) for name, body in re.findall(r"<!-- (\S+) -->\n\n```json\n(.*?)```", TEXT, re.S)
}
POLICIES = ["node.json", "head.json", "publisher.json"]
BUCKET = "arn:aws:s3:::BUCKET"
INSTANCE = "arn:aws:ec2:us-east-1:ACCOUNT:instance/i-1"


def may(file: str, action: str, resource: str) -> bool:
    """Leaves conditions aside, which moto does not evaluate for policies of roles."""
    answer = IAMPolicy(json.dumps(FILES[file])).is_action_permitted(action, resource)
    return answer == PermissionResult.PERMITTED


def condition(file: str, sid: str) -> dict[str, Any]:
    [statement] = [found for found in FILES[file]["Statement"] if found.get("Sid") == sid]
    found: dict[str, Any] = statement["Condition"]
    return found


def cluster() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return document


def test_every_file_that_a_command_reads_is_there() -> None:
    assert set(re.findall(r"file://(\S+)", TEXT)) == set(FILES) - {"publisher.json"}


@pytest.mark.parametrize("name", POLICIES)
def test_policies_are_valid(name: str) -> None:
    IAMPolicyDocumentValidator(json.dumps(FILES[name])).validate()


def test_a_node_reads_models_and_writes_nothing_but_caches() -> None:
    for prefix in ("models", "releases", "compile-cache"):
        assert may("node.json", "s3:GetObject", f"{BUCKET}/{prefix}/a/b")
    assert may("node.json", "s3:PutObject", f"{BUCKET}/compile-cache/key/00001.tar.gz")
    for prefix in ("models", "releases"):
        assert not may("node.json", "s3:PutObject", f"{BUCKET}/{prefix}/a")
    assert not may("node.json", "s3:GetObject", f"{BUCKET}/other/a")
    assert not may("node.json", "s3:GetObject", "arn:aws:s3:::other/models/a")
    assert not may("node.json", "s3:DeleteObject", f"{BUCKET}/compile-cache/a")
    assert not may("node.json", "ec2:RunInstances", INSTANCE)
    prefixes = condition("node.json", "ListThosePrefixes")["StringLike"]["s3:prefix"]
    assert sorted(prefixes) == ["compile-cache/*", "models/*"]


def test_a_publisher_writes_models_and_no_caches() -> None:
    for action in ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"):
        assert may("publisher.json", f"s3:{action}", f"{BUCKET}/models/a")
    assert not may("publisher.json", "s3:PutObject", f"{BUCKET}/compile-cache/a")


def test_the_head_starts_and_ends_the_nodes_of_the_cluster() -> None:
    for action in ("RunInstances", "CreateTags", "TerminateInstances"):
        assert may("head.json", f"ec2:{action}", INSTANCE)
    for node_type in cluster()["available_node_types"].values():
        parameter = node_type["node_config"]["ImageId"].removeprefix("resolve:ssm:")
        assert may("head.json", "ssm:GetParameters", f"arn:aws:ssm:us-east-1::parameter{parameter}")
    assert not may("head.json", "ec2:TerminateInstances", "arn:aws:ec2:us-east-1:ACCOUNT:volume/v-1")
    [pattern] = condition("head.json", "StartNodes")["StringLike"].values()
    workers = set(cluster()["available_node_types"]) - {cluster()["head_node_type"]}
    for name in workers:
        instance = cluster()["available_node_types"][name]["node_config"]["InstanceType"]
        assert instance.startswith(pattern.removesuffix("*"))
    tag = condition("head.json", "NameAndEndItsOwn")["StringEquals"]["aws:ResourceTag/ray-cluster-name"]
    assert tag == cluster()["cluster_name"]


def test_the_head_passes_on_the_role_of_the_nodes_only() -> None:
    types, head = cluster()["available_node_types"], cluster()["head_node_type"]
    roles = {
        name: node["node_config"]["IamInstanceProfile"]["Arn"].split("/")[-1] for name, node in types.items()
    }
    for name, role in roles.items():
        assert may("head.json", "iam:PassRole", f"arn:aws:iam::ACCOUNT:role/{role}") == (name != head)
    [made] = re.findall(r"for role in (.*);", TEXT)
    assert set(made.split()) == set(roles.values())


def test_the_group_is_open_inside_and_for_ssh_from_one_address() -> None:
    inside, ssh = FILES["group.json"]
    assert inside == {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "GROUP"}]}
    assert (ssh["IpProtocol"], ssh["FromPort"], ssh["ToPort"]) == ("tcp", 22, 22)
    assert [found["CidrIp"] for found in ssh["IpRanges"]] == ["YOUR_ADDRESS/32"]


# Serve warns when it is imported.
@pytest.mark.filterwarnings("ignore")
def test_the_config_is_one() -> None:
    from ray.serve.schema import ServeDeploySchema

    [text] = [body for body in re.findall(r"```yaml\n(.*?)```", TEXT, re.S) if "applications:" in body]
    document = yaml.safe_load(text.replace("DIGEST", "0123456789abcdef"))
    [application] = ServeDeploySchema.model_validate(document).applications
    assert not application.deployments
    config = AppConfig.model_validate(application.args)
    assert str(config.model.source).startswith("s3://BUCKET/models/")
    assert config.staging.compile_cache == "s3://BUCKET/compile-cache"
    engine, ingress = engine_options(config), ingress_options(config)
    assert engine["autoscaling_config"]["max_replicas"] <= cluster()["max_workers"]
    assert engine["max_surge_percent"] == 1
    assert ingress["num_replicas"] > 1


def test_stage_commands_are_accepted() -> None:
    commands = [shlex.split(found) for found in re.findall(r"-m serve_app\.stage ([^`'\n]+)", TEXT)]
    assert {command[0] for command in commands} == {"publish", "fetch", "report"}
    for command in commands:
        stage._parser().parse_args(command)


def test_the_ingress_that_pages_may_use_is_one() -> None:
    [text] = [body for body in re.findall(r"```yaml\n(.*?)```", TEXT, re.S) if "allowed_origins" in body]
    config = IngressConfig.model_validate(yaml.safe_load(text)["ingress"])
    assert config.allowed_origins == ["https://chat.example.com"]


def test_the_time_between_comments_is_the_default() -> None:
    assert re.findall(r"keep_alive_s`\s\((\d+) s\)", TEXT) == [f"{IngressConfig().keep_alive_s:g}"]


def test_the_command_for_a_sealing_key_makes_one(tmp_path: Path) -> None:
    [num_bytes] = re.findall(r"openssl rand -base64 (\d+) > sealing.key", TEXT)
    # As openssl writes it: lines of 64 characters at most.
    content = base64.encodebytes(bytes(range(int(num_bytes))))
    (tmp_path / "sealing.key").write_bytes(content)
    assert sealing_key.sealing_key(str(tmp_path / "sealing.key")) == bytes(range(32))
    assert "sealing_key_file" in IngressConfig.model_fields


@pytest.mark.parametrize("text", ["serve_app_answer_repairs", "the model's answers needed repairs"])
def test_what_is_to_be_watched_is_what_the_code_says(text: str) -> None:
    assert f"`{text}`" in TEXT
    sources = (path.read_text() for path in (ROOT / "serve_app").rglob("*.py"))
    assert any(f'"{text}' in source for source in sources)
