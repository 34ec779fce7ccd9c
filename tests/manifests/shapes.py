"""The shape of the objects that Kubernetes itself does not know, as far as we use them, and nothing beyond that.

Written by hand after the makers' custom resource definitions. A field that is not in here is refused, as a strict API
server would, so a new one is looked up before it is used.
"""

from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string", "minLength": 1}
WHOLE: Final[Schema] = {"type": "integer", "minimum": 0}
YES_NO: Final[Schema] = {"type": "boolean"}
TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
ANYTHING: Final[Schema] = {"type": "object"}


def one_of(*values: str) -> Schema:
    """One of these texts."""
    return {"enum": list(values)}


def many(each: Schema) -> Schema:
    """A list that is not empty."""
    return {"type": "array", "items": each, "minItems": 1}


def table(required: str = "", **fields: Schema) -> Schema:
    """An object with these fields and no others."""
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


_CLUSTER: Final = table("name", name=TEXT)
_SELECTED: Final = table("", matchLabels=TEXTS)
_QUANTITIES: Final = table("", cpu=TEXT, memory=TEXT)
_PERMISSIONS: Final = table("", configure=TEXT, write=TEXT, read=TEXT)
_SCALING: Final = table(
    "policies",
    stabilizationWindowSeconds=WHOLE,
    policies=many(table("type value periodSeconds", type=one_of("Pods", "Percent"), value=WHOLE, periodSeconds=WHOLE)),
)
_RABBITMQ_TRIGGER: Final = table(
    "type metadata authenticationRef",
    type=one_of("rabbitmq"),
    metadata=table(
        "protocol mode queueName value",
        protocol=one_of("http", "amqp"),
        mode=one_of("QueueLength", "MessageRate"),
        queueName=TEXT,
        vhostName=TEXT,
        value={"type": "string", "pattern": "^[0-9]+$"},
        excludeUnacknowledged=one_of("true", "false"),
        unsafeSsl=one_of("true", "false"),
    ),
    authenticationRef=table("name", name=TEXT),
)
_ALERT: Final = table(
    "alert expr labels annotations",
    alert=TEXT,
    expr=TEXT,
    labels=TEXTS,
    annotations=TEXTS,
    **{"for": TEXT},
)

SPECS: Final[Mapping[tuple[str, str], Schema]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): table(
        "scaleTargetRef triggers",
        scaleTargetRef=table("name", name=TEXT, kind=TEXT, apiVersion=TEXT),
        pollingInterval=WHOLE,
        cooldownPeriod=WHOLE,
        minReplicaCount=WHOLE,
        maxReplicaCount=WHOLE,
        fallback=table(
            "failureThreshold replicas",
            failureThreshold=WHOLE,
            replicas=WHOLE,
            behavior=one_of("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"),
        ),
        advanced=table(
            "", horizontalPodAutoscalerConfig=table("", behavior=table("", scaleUp=_SCALING, scaleDown=_SCALING))
        ),
        triggers=many(_RABBITMQ_TRIGGER),
    ),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): table(
        "secretTargetRef", secretTargetRef=many(table("parameter name key", parameter=TEXT, name=TEXT, key=TEXT))
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): table(
        "selector endpoints",
        selector=_SELECTED,
        endpoints=many(table("port", port=TEXT, path=TEXT, interval=TEXT, scrapeTimeout=TEXT)),
        targetLabels=many(TEXT),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): table(
        "groups", groups=many(table("name rules", name=TEXT, interval=TEXT, rules=many(_ALERT)))
    ),
    ("rabbitmq.com/v1beta1", "RabbitmqCluster"): table(
        "replicas",
        image=TEXT,
        replicas={"enum": [1, 3, 5]},
        terminationGracePeriodSeconds=WHOLE,
        tls=table("secretName", secretName=TEXT, caSecretName=TEXT, disableNonTLSListeners=YES_NO),
        persistence=table("", storage=TEXT, storageClassName=TEXT),
        resources=table("", requests=_QUANTITIES, limits=_QUANTITIES),
        rabbitmq=table("", additionalPlugins=many(TEXT), additionalConfig=TEXT),
        override=table("", statefulSet=table("", spec=table("", template=table("", spec=ANYTHING)))),
    ),
    ("rabbitmq.com/v1beta1", "Vhost"): table(
        "name rabbitmqClusterReference",
        name=TEXT,
        defaultQueueType=one_of("quorum", "classic", "stream"),
        rabbitmqClusterReference=_CLUSTER,
    ),
    ("rabbitmq.com/v1beta1", "Exchange"): table(
        "name vhost type durable rabbitmqClusterReference",
        name=TEXT,
        vhost=TEXT,
        type=one_of("direct", "fanout", "headers", "topic"),
        durable=YES_NO,
        rabbitmqClusterReference=_CLUSTER,
    ),
    ("rabbitmq.com/v1beta1", "Policy"): table(
        "name vhost pattern applyTo definition rabbitmqClusterReference",
        name=TEXT,
        vhost=TEXT,
        pattern=TEXT,
        applyTo=one_of("queues", "exchanges", "all", "classic_queues", "quorum_queues", "streams"),
        priority=WHOLE,
        definition=ANYTHING,
        rabbitmqClusterReference=_CLUSTER,
    ),
    ("rabbitmq.com/v1beta1", "User"): table(
        "rabbitmqClusterReference importCredentialsSecret",
        tags=many(one_of("management", "policymaker", "monitoring", "administrator")),
        importCredentialsSecret=_CLUSTER,
        rabbitmqClusterReference=_CLUSTER,
    ),
    ("rabbitmq.com/v1beta1", "Permission"): table(
        "vhost userReference permissions rabbitmqClusterReference",
        vhost=TEXT,
        userReference=_CLUSTER,
        permissions=_PERMISSIONS,
        rabbitmqClusterReference=_CLUSTER,
    ),
    ("rabbitmq.com/v1beta1", "TopicPermission"): table(
        "vhost userReference permissions rabbitmqClusterReference",
        vhost=TEXT,
        userReference=_CLUSTER,
        permissions=table("exchange", exchange=TEXT, write=TEXT, read=TEXT),
        rabbitmqClusterReference=_CLUSTER,
    ),
    ("cert-manager.io/v1", "Certificate"): table(
        "secretName issuerRef",
        secretName=TEXT,
        duration=TEXT,
        renewBefore=TEXT,
        privateKey=table("", algorithm=one_of("RSA", "ECDSA", "Ed25519"), size=WHOLE, rotationPolicy=TEXT),
        usages=many(one_of("server auth", "client auth", "digital signature", "key encipherment")),
        dnsNames=many(TEXT),
        issuerRef=table("name", name=TEXT, kind=one_of("Issuer", "ClusterIssuer")),
    ),
    ("external-secrets.io/v1", "ExternalSecret"): table(
        "secretStoreRef target data",
        refreshInterval=TEXT,
        secretStoreRef=table("name", name=TEXT, kind=one_of("SecretStore", "ClusterSecretStore")),
        target=table("", name=TEXT, creationPolicy=one_of("Owner", "Orphan", "Merge", "None")),
        data=many(table("secretKey remoteRef", secretKey=TEXT, remoteRef=table("key", key=TEXT, property=TEXT))),
    ),
    ("external-secrets.io/v1", "SecretStore"): table(
        "provider",
        provider=table(
            "",
            vault=table(
                "server auth",
                server=TEXT,
                path=TEXT,
                version=one_of("v1", "v2"),
                auth=table(
                    "",
                    kubernetes=table(
                        "mountPath role", mountPath=TEXT, role=TEXT, serviceAccountRef=table("name", name=TEXT)
                    ),
                ),
            ),
        ),
    ),
}


def shape(api_version: str, kind: str) -> Schema | None:
    """The schema of a whole object; None for one that we have not looked up."""
    spec = SPECS.get((api_version, kind))
    if spec is None:
        return None
    metadata = table("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    return table("apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata=metadata, spec=spec)
