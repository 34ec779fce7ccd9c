"""Every overlay builds, each of its objects is valid, and the objects keep to each other and to what the docs promise.

`make manifests` runs this; it brings the tools.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from jsonschema import Draft202012Validator

from shared import topics
from shared.configuration import load
from shared.rabbitmq import RETRY_SECONDS, retry_queue
from shared.settings import IngressSettings, WorkerSettings
from tests.manifests.shapes import shape
from worker.app import ROLES
from worker.customers import customers

ROOT: Final = Path(__file__).parents[2]
KUBERNETES: Final = ROOT / "k8s"
TOOLS: Final = Path(os.environ["MANIFEST_TOOLS"]).resolve()
OVERLAYS: Final = ("dev", "production")
KUBERNETES_VERSION: Final = "1.37.0"
Manifest = dict[str, Any]


def run(*command: str | Path, given: str = "") -> str:
    """A tool's output; it fails the test where the tool does."""
    done = subprocess.run([str(part) for part in command], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@functools.cache
def text(overlay: str) -> str:
    """An overlay as kustomize builds it."""
    return run(TOOLS / "bin/kubectl", "kustomize", KUBERNETES / "overlays" / overlay)


@functools.cache
def objects(overlay: str) -> tuple[Manifest, ...]:
    """The objects of an overlay."""
    return tuple(yaml.safe_load_all(text(overlay)))


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    return [each for each in objects(overlay) if each["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Manifest:
    (found,) = (each for each in of_kind(overlay, kind) if each["metadata"]["name"] == name)
    return found


def is_native(manifest: Manifest) -> bool:
    group = manifest["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")


def workloads(overlay: str) -> list[Manifest]:
    return of_kind(overlay, "Deployment", "StatefulSet", "Job")


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def container(workload: Manifest) -> Manifest:
    (only,) = pod(workload)["containers"]
    assert isinstance(only, dict)
    return only


def place(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@every_overlay
def test_each_native_object_is_valid_for_kubernetes_strictly(overlay: str, tmp_path: Path) -> None:
    file = tmp_path / "native.yaml"
    file.write_text(yaml.safe_dump_all([each for each in objects(overlay) if is_native(each)]))
    run(TOOLS / "bin/kubernetes-validate", "--strict", "--quiet", "-k", KUBERNETES_VERSION, file)


@every_overlay
def test_each_other_object_has_the_shape_that_we_looked_up_and_nothing_beyond(overlay: str) -> None:
    for each in (each for each in objects(overlay) if not is_native(each)):
        schema = shape(each["apiVersion"], each["kind"])
        assert schema is not None, place(each)
        problems = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(each)]
        assert not problems, (place(each), problems)


@every_overlay
def test_objects_for_keda_and_prometheus_have_the_shape_that_their_makers_publish(overlay: str) -> None:
    theirs = [
        each for each in objects(overlay) if each["apiVersion"].startswith(("keda.sh/", "monitoring.coreos.com/"))
    ]
    assert len(theirs) >= 6
    run("node", TOOLS / "published.mjs", given=json.dumps(theirs))


@every_overlay
def test_checkov_finds_nothing_that_is_not_explained_in_place(overlay: str, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(text(overlay))
    scan: list[str | Path] = [
        TOOLS / "bin/checkov",
        "--skip-download",
        "--quiet",
        "--compact",
        "--framework",
        "kubernetes",
    ]
    assert "Failed checks: 0" in run(*scan, "-f", file)
    for each in workloads(overlay):
        skips = {key: text for key, text in each["metadata"]["annotations"].items() if key.startswith("checkov.io/")}
        assert all(re.fullmatch(r"CKV\w+=.{20,}", reason) for reason in skips.values()), place(each)


def test_checkov_and_hadolint_find_nothing_in_the_dockerfile_that_is_not_explained_in_place() -> None:
    file = ROOT / "Dockerfile"
    run(TOOLS / "bin/hadolint", file)
    scan: list[str | Path] = [
        TOOLS / "bin/checkov",
        "--skip-download",
        "--quiet",
        "--compact",
        "--framework",
        "dockerfile",
    ]
    run(*scan, "-f", file)


def test_each_file_holds_one_object_and_is_used() -> None:
    used = set()
    for kustomization in KUBERNETES.rglob("kustomization.yaml"):
        content = yaml.safe_load(kustomization.read_text())
        names = [*content.get("resources", ()), *content.get("components", ())]
        names += [patch["path"] for patch in content.get("patches", ())]
        for generator in content.get("configMapGenerator", ()):
            names += [name.rpartition("=")[2] for name in generator["files"]]
        for name in names:
            target = (kustomization.parent / name).resolve()
            used.add(target / "kustomization.yaml" if target.is_dir() else target)
    files = {file.resolve() for file in KUBERNETES.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert files - used == {KUBERNETES / "overlays" / overlay / "kustomization.yaml" for overlay in OVERLAYS}
    for file in files:
        if file.suffix == ".yaml":
            assert len(list(yaml.safe_load_all(file.read_text()))) == 1, file


@every_overlay
def test_every_pod_is_hardened(overlay: str) -> None:
    assert len(workloads(overlay)) == len(ROLES) + 2
    for workload in workloads(overlay):
        spec, only = pod(workload), container(workload)
        assert spec["enableServiceLinks"] is False, place(workload)
        assert spec["automountServiceAccountToken"] is False
        assert spec["priorityClassName"] == "vectorcare-receiver"
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= only["resources"]["requests"].keys()
        assert "memory" in only["resources"]["limits"]


@every_overlay
def test_every_server_is_probed_on_its_admin_port_and_has_time_to_drain(overlay: str) -> None:
    for workload in of_kind(overlay, "Deployment", "StatefulSet"):
        only = container(workload)
        assert only["livenessProbe"]["httpGet"] == {"path": "/healthz/live", "port": "admin"}
        assert only["startupProbe"]["httpGet"] == {"path": "/healthz/live", "port": "admin"}
        assert only["readinessProbe"]["httpGet"] == {"path": "/healthz/ready", "port": "admin"}
        assert pod(workload)["topologySpreadConstraints"]
        drain = max(IngressSettings().drain_seconds, WorkerSettings().drain_seconds)
        assert pod(workload)["terminationGracePeriodSeconds"] >= drain + 20
        ports = {port["name"]: port["containerPort"] for port in only["ports"]}
        part = IngressSettings() if "webhook" in ports else WorkerSettings()
        assert ports["admin"] == part.admin_port


@every_overlay
def test_the_root_file_system_is_read_only_and_what_is_written_has_a_volume(overlay: str) -> None:
    for workload in workloads(overlay):
        names = {volume["name"] for volume in pod(workload)["volumes"]}
        names |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
        mounts = container(workload)["volumeMounts"]
        assert {mount["name"] for mount in mounts} == names, place(workload)
        written = {mount["mountPath"] for mount in mounts if not mount.get("readOnly")}
        spooling = {"/var/lib/receiver"} if workload["kind"] == "StatefulSet" else set()
        assert written == {"/tmp"} | spooling


@every_overlay
def test_each_role_has_a_deployment_that_is_scaled_by_the_depth_of_its_own_queue(overlay: str) -> None:
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in of_kind(overlay, "ScaledObject")}
    deployments = [each for each in of_kind(overlay, "Deployment") if container(each)["args"][0] == "worker"]
    roles = {container(each)["args"][1] for each in deployments}
    assert roles == ROLES.keys()
    assert scaled.keys() == {each["metadata"]["name"] for each in deployments}
    for deployment in deployments:
        role = container(deployment)["args"][1]
        spec = scaled[deployment["metadata"]["name"]]
        (trigger,) = spec["triggers"]
        assert trigger["metadata"]["queueName"] == f"receiver.{role}"
        assert trigger["metadata"]["queueName"] in ROLES[role]
        assert trigger["metadata"]["protocol"] == "http"
        assert trigger["metadata"]["mode"] == "QueueLength"
        assert trigger["metadata"]["excludeUnacknowledged"] == "false"
        assert spec["pollingInterval"] == 5
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] == 300
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]
        assert "replicas" not in deployment["spec"]
        assert overlay == "dev" or spec["minReplicaCount"] == 2


@every_overlay
def test_the_ingress_is_scaled_by_cpu_and_never_by_queue_depth(overlay: str) -> None:
    (autoscaler,) = of_kind(overlay, "HorizontalPodAutoscaler")
    assert [metric["resource"]["name"] for metric in autoscaler["spec"]["metrics"]] == ["cpu"]
    target = autoscaler["spec"]["scaleTargetRef"]
    assert "replicas" not in named(overlay, target["kind"], target["name"])["spec"]


@every_overlay
def test_every_selector_finds_pods(overlay: str) -> None:
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in workloads(overlay)]
    cluster = {"app.kubernetes.io/name": "receiver-rabbitmq"}  # its pods are the operator's
    selectors = [(each, each["spec"]["selector"]) for each in of_kind(overlay, "Service")]
    selectors += [(each, each["spec"]["selector"]["matchLabels"]) for each in of_kind(overlay, "PodDisruptionBudget")]
    for policy in of_kind(overlay, "NetworkPolicy"):
        selectors.append((policy, policy["spec"]["podSelector"].get("matchLabels", {})))
    for each, selector in selectors:
        found = [labels for labels in [*pods, cluster] if selector.items() <= labels.items()]
        assert found, place(each)
        if each["kind"] == "Service":
            ports = {port["name"] for w in workloads(overlay) for port in container(w).get("ports", ())}
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports


@every_overlay
def test_the_ingress_reaches_the_broker_and_nothing_else(overlay: str) -> None:
    reached = {}
    for policy in of_kind(overlay, "NetworkPolicy"):
        if "egress" in policy["spec"]:
            reached[policy["metadata"]["name"]] = policy["spec"]["podSelector"].get("matchLabels", {})
    ingress = next(each for each in workloads(overlay) if container(each)["args"] == ["ingress"])
    labels = ingress["spec"]["template"]["metadata"]["labels"]
    assert {name for name, selector in reached.items() if selector.items() <= labels.items()} == {
        "all-ask-dns",
        "ingress-reaches-broker",
    }
    secrets = {volume["secret"]["secretName"] for volume in pod(ingress)["volumes"] if "secret" in volume}
    assert not secrets & {"receiver-store", "receiver-customers", "receiver-worker-broker"}


@every_overlay
def test_every_secret_that_is_mounted_or_named_is_there(overlay: str) -> None:
    there = {each["metadata"]["name"] for each in of_kind(overlay, "Secret", "ExternalSecret")}
    there |= {each["spec"]["secretName"] for each in of_kind(overlay, "Certificate")}
    named_ones = set()
    for workload in workloads(overlay):
        named_ones |= {volume["secret"]["secretName"] for volume in pod(workload)["volumes"] if "secret" in volume}
    for each in of_kind(overlay, "User"):
        named_ones.add(each["spec"]["importCredentialsSecret"]["name"])
    for each in of_kind(overlay, "TriggerAuthentication"):
        named_ones |= {reference["name"] for reference in each["spec"]["secretTargetRef"]}
    assert named_ones <= there


def test_production_holds_no_secret_and_names_its_image_by_digest() -> None:
    assert not of_kind("production", "Secret")
    assert all("@sha256:" in container(each)["image"] for each in workloads("production"))


def configured(part: str) -> dict[str, Any]:
    return tomllib.loads((KUBERNETES / f"base/config/{part}.toml").read_text())


def files_named(tree: object) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key.endswith("_file"):
                yield value
            elif key in ("public_keys", "encryption_key_files"):
                yield from value
            elif key == "policy":
                yield value
            else:
                yield from files_named(value)


@every_overlay
@pytest.mark.parametrize("part", ["ingress", "worker"])
def test_every_file_that_the_configuration_names_is_mounted(overlay: str, part: str) -> None:
    workload = next(each for each in workloads(overlay) if container(each)["args"][0] == part)
    mounts = {mount["name"]: mount["mountPath"] for mount in container(workload)["volumeMounts"]}
    there = set()
    for volume in pod(workload)["volumes"]:
        if "configMap" in volume:
            keys = named(overlay, "ConfigMap", volume["configMap"]["name"])["data"]
        elif "secret" in volume:
            keys = secret_keys(overlay, volume["secret"]["secretName"])
        else:
            continue
        there |= {f"{mounts[volume['name']]}/{key}" for key in keys}
    for file in files_named(configured(part)):
        assert str(Path("/etc/receiver") / file) in there, file


def secret_keys(overlay: str, name: str) -> list[str]:
    for each in of_kind(overlay, "Secret", "ExternalSecret"):
        if each["metadata"]["name"] == name:
            data = (
                each["stringData"] if each["kind"] == "Secret" else [row["secretKey"] for row in each["spec"]["data"]]
            )
            return list(data)
    return ["ca.crt"]


def test_ingress_and_workers_know_the_same_customers_by_the_same_keys() -> None:
    def keys(part: str) -> dict[str, Any]:
        return {name: customer["public_keys"] for name, customer in configured(part)["customers"].items()}

    assert keys("ingress") == keys("worker")


def matches(pattern: str, name: str) -> bool:
    return re.search(pattern, name) is not None


def test_rabbitmq_users_have_the_rights_that_their_work_needs_and_no_more() -> None:
    ours = [*topics.topology().exchanges, *(queue.name for queue in topics.topology().queues)]
    ours += [retry_queue(seconds) for seconds in RETRY_SECONDS]
    rights = {each["metadata"]["name"]: each["spec"]["permissions"] for each in of_kind("production", "Permission")}
    for name in ours:
        assert matches(rights["receiver-ingress"]["configure"], name), name
        assert matches(rights["receiver-worker"]["configure"], name), name
        assert matches(rights["receiver-worker"]["read"], name), name
        assert matches(rights["receiver-worker"]["write"], name), name
        readable = matches(rights["receiver-ingress"]["read"], name)
        assert not (readable and name in {queue.name for queue in topics.topology().queues}), name
    assert not matches(rights["receiver-ingress"]["write"], "amq.default")
    assert not matches(rights["receiver-ingress"]["write"], "dispatch.events")
    assert set(rights["receiver-keda"].values()) == {"^$"}
    for subscription in configured("worker")["subscriptions"]:
        assert matches(rights["receiver-worker"]["configure"], subscription["name"])


def test_an_exchange_whose_keys_are_limited_is_made_beside_its_limits_as_the_receiver_declares_it() -> None:
    exchanges = [each["spec"] for each in of_kind("production", "Exchange")]
    limited = {each["spec"]["permissions"]["exchange"] for each in of_kind("production", "TopicPermission")}
    assert {each["name"] for each in exchanges} == limited <= {*topics.topology().exchanges}
    assert {(each["vhost"], each["type"], each["durable"]) for each in exchanges} == {("vectorcare", "topic", True)}


def test_policies_of_rabbitmq_meet_the_queues_that_they_are_meant_for() -> None:
    patterns = {each["metadata"]["name"]: each["spec"]["pattern"] for each in of_kind("production", "Policy")}
    for queue in topics.topology().queues:
        meant = "parked-queue" if queue.name == topics.DEAD_LETTERS else "worker-queues"
        assert [name for name, pattern in patterns.items() if matches(pattern, queue.name)] == [meant]
    for seconds in RETRY_SECONDS:
        assert [name for name, pattern in patterns.items() if matches(pattern, retry_queue(seconds))] == [
            "delay-queues"
        ]


def test_with_the_spool_each_pod_keeps_its_volume_and_drains_before_it_goes() -> None:
    (stateful,) = of_kind("production", "StatefulSet")
    assert stateful["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenScaled": "Retain", "whenDeleted": "Retain"}
    hook = container(stateful)["lifecycle"]["preStop"]["exec"]["command"]
    assert hook == ["python3", "/etc/drain/drain-spool.py"]
    variables = {each["name"]: each["value"] for each in container(stateful)["env"]}
    assert variables["RECEIVER_INGRESS__SPOOL__PATH"].startswith("/var/lib/receiver/")
    (claim,) = stateful["spec"]["volumeClaimTemplates"]
    size = claim["spec"]["resources"]["requests"]["storage"]
    assert int(size.removesuffix("Gi")) * 2**30 > int(variables["RECEIVER_INGRESS__SPOOL__MAX_BYTES"])


def test_both_kinds_of_ingress_differ_by_the_spool_alone() -> None:
    (stateful,) = of_kind("production", "StatefulSet")
    deployment = named("dev", "Deployment", "receiver-ingress")
    with_spool, without = container(stateful), container(deployment)
    for field in ("args", "ports", "livenessProbe", "readinessProbe", "startupProbe", "resources", "securityContext"):
        assert with_spool[field] == without[field], field
    mounts = {mount["name"] for mount in with_spool["volumeMounts"]}
    assert mounts - {mount["name"] for mount in without["volumeMounts"]} == {"spool", "spool-key", "drain"}


@pytest.mark.parametrize("part", ["ingress", "worker"])
def test_the_configuration_in_the_pods_is_one_that_we_read_without_a_problem(part: str, tmp_path: Path) -> None:
    text_ = (KUBERNETES / f"base/config/{part}.toml").read_text().replace("/run/secrets", f"{tmp_path}/secrets")
    secrets = {each["metadata"]["name"]: each["stringData"] for each in of_kind("dev", "Secret")}
    folders = {
        "broker": f"receiver-{part}-broker",
        "store": "receiver-store",
        "customers": "receiver-customers",
        "tokens": "receiver-webhook-tokens",
    }
    for folder, name in folders.items():
        for key, value in secrets[name].items():
            file = tmp_path / "secrets/receiver" / folder / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(value)
    (tmp_path / "receiver.toml").write_text(text_)
    for name in ("keys", "policies"):
        shutil.copytree(KUBERNETES / "base/config" / name, tmp_path / name)
    settings = load(tmp_path / "receiver.toml", {})
    assert settings.customer_problems == ()
    assert settings.warnings == ()
    assert settings.customers.keys() == {"acme"}
    assert part == "ingress" or customers(settings)[1] == []
