"""The configuration: all problems at once, with their place, and never a value."""

from pathlib import Path

import pytest

from shared.configuration import load
from shared.errors import ConfigurationError
from shared.settings import Settings

SECRET = "s3cr3t-canary"
CUSTOMER = '[customers.acme]\npublic_keys = ["acme.pem"]\nclient_id = "id"\nclient_secret = "s3cr3t-canary"\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "receiver.toml"
    file.write_text(text)
    return file


def problems(text: str, folder: Path, **variables: str) -> dict[str, str]:
    """The problems that stop the start, by place."""
    with pytest.raises(ConfigurationError) as refused:
        load(write(folder, text), variables)
    assert SECRET not in str(refused.value) + repr(refused.value)
    return {problem.place: problem.message for problem in refused.value.problems}


def disabled(settings: Settings) -> dict[str, str]:
    """The problems that disable a customer, by place."""
    return {problem.place: problem.message for problem in settings.customer_problems}


def test_without_a_file_the_embedded_broker_and_store_are_one_file() -> None:
    settings = load(None, {})
    assert (settings.broker_file, settings.store_file) == (Path("receiver.db"), Path("receiver.db"))


def test_relative_paths_start_at_the_configuration_file(tmp_path: Path) -> None:
    settings = load(write(tmp_path, '[broker]\nurl = "sqlite:queue.db"\n'), {})
    assert (settings.broker_file, settings.store_file) == (tmp_path / "queue.db", tmp_path / "receiver.db")


def test_a_variable_sets_any_setting_over_the_file(tmp_path: Path) -> None:
    variables = {
        "RECEIVER_BROKER__URL": '["amqp://a.example/", "amqps://b.example/"]',
        "RECEIVER_STORE__URL": "sqlite:x.db",
        "RECEIVER_INGRESS__PORT": "1234",
        "RECEIVER_CUSTOMERS__acme__CLIENT_SECRET": "from the environment",
        "RECEIVER_TEST_AMQP_URL": "not a setting",
        "RECEIVER_CONFIG": "not a setting either",
    }
    settings = load(write(tmp_path, CUSTOMER + '[broker]\nurl = "sqlite:a.db"\n'), variables)
    assert [url.get_secret_value() for url in settings.broker.url] == ["amqp://a.example/", "amqps://b.example/"]
    assert settings.broker_file is None
    assert settings.ingress.port == 1234
    secret = settings.customers["acme"].client_secret
    assert secret is not None
    assert secret.get_secret_value() == "from the environment"


def test_every_problem_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    text = f"""
    [ingress]
    prot = 80
    port = 99999
    allow_from = ["nonsense"]
    [worker]
    order_by = "luck"
    [broker]
    url = "redis://{SECRET}@x"
    [store]
    url = "mysql://{SECRET}"
    [[subscriptions]]
    name = "receiver.mine"
    pattern = "a b"
    [bogus]
    """
    found = problems(text, tmp_path, RECEIVER_BROKR__URL="amqp://x", RECEIVER_WORKER__PREFETCH="many")
    assert set(found) == {
        "ingress.prot",
        "ingress.port",
        "ingress.allow_from.0",
        "worker.order_by",
        "RECEIVER_WORKER__PREFETCH",
        "broker.url",
        "store.url",
        "subscriptions.0.name",
        "subscriptions.0.pattern",
        "bogus",
        "RECEIVER_BROKR__URL",
    }
    assert found["ingress.prot"] == "there is no such setting; did you mean port?"
    assert found["RECEIVER_BROKR__URL"] == "there is no such setting; did you mean broker?"


@pytest.mark.parametrize(
    "name",
    [
        "RECEIVER_PORT",
        "RECEIVER_CONFIGG",
        "RECEIVER_INGRESS__PROT",
        "RECEIVER_INGRESS__PORT__X",
        "RECEIVER_CUSTOMER__acme__MODE",
    ],
)
def test_a_misspelt_variable_stops_the_start(tmp_path: Path, name: str) -> None:
    assert set(problems("[ingress]\nport = 80\n", tmp_path, **{name: "1"})) == {name}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[ingress\n", id="not TOML"),
        pytest.param("ingress = 7\n", id="not a table"),
        pytest.param("customers = 7\n", id="customers that are none"),
        pytest.param('folder = "/etc"\n', id="what is known, but no setting"),
        pytest.param('[[subscriptions]]\nname="a"\npattern="#"\n' * 2, id="two queues of one name"),
        pytest.param('[ingress.spool]\npath = "spool.db"\nmax_bytes = 1000\n', id="a spool with room for nothing"),
    ],
)
def test_a_file_that_makes_no_sense_stops_the_start(tmp_path: Path, text: str) -> None:
    assert problems(text, tmp_path)


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such file"):
        load(tmp_path / "nowhere.toml", {})


def test_a_store_must_be_named_with_an_amqp_broker(tmp_path: Path) -> None:
    settings = load(write(tmp_path, '[broker]\nurl = "amqp://x/"\n'), {})
    with pytest.raises(ConfigurationError, match=r"store\.url"):
        _ = settings.store_file


def test_a_spool_is_used_with_rabbitmq_alone(tmp_path: Path) -> None:
    spool = '[ingress.spool]\npath = "spool.db"\n'
    settings = load(write(tmp_path, spool), {"RECEIVER_BROKER__URL": "amqp://x/"})
    assert (settings.spool_file, settings.warnings) == (tmp_path / "spool.db", ())
    settings = load(write(tmp_path, spool), {})
    assert settings.spool_file is None
    assert [problem.place for problem in settings.warnings] == ["ingress.spool"]


def test_a_customers_own_problem_disables_that_customer_alone(tmp_path: Path) -> None:
    text = f"""{CUSTOMER}
    [customers.birch]
    public_keys = []
    clint_id = "x"
    mode = "reckless"
    api_url = "http://example.com/{SECRET}"
    [customers.a__b]
    public_keys = ["x.pem"]
    """
    settings = load(write(tmp_path, text), {"RECEIVER_CUSTOMERS__cedar__PUBLIC_KEYS": '["c.pem"]'})
    assert set(settings.customers) == {"acme", "cedar"}
    assert settings.declared == {"acme", "birch", "cedar", "a__b"}
    assert set(disabled(settings)) == {
        "customers.birch.public_keys",
        "customers.birch.clint_id",
        "customers.birch.mode",
        "customers.birch.api_url",
        "customers.a__b",
    }
    assert "did you mean client_id?" in disabled(settings)["customers.birch.clint_id"]
    assert {problem.customer for problem in settings.customer_problems} == {"birch", "a__b"}
    assert SECRET not in repr(settings.customer_problems)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://hub.example/openapi/v2.0", True),
        ("http://127.0.0.1:8500/x", True),
        ("http://localhost/x", True),
        ("http://[::1]:1/x", True),
        ("http://hub.example/", False),
        ("ftp://127.0.0.1/", False),
        ("https://user:pw@hub.example/", False),
        ("https://hub.example/?a=b", False),
        ("https://", False),
        ("nonsense", False),
    ],
)
def test_an_api_address_is_https_or_on_loopback(tmp_path: Path, url: str, good: bool) -> None:
    settings = load(write(tmp_path, CUSTOMER + f'api_url = "{url}"\n'), {})
    assert ("acme" in settings.customers) == good


def test_a_secret_may_be_a_file_and_one_that_all_may_read_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    (tmp_path / "secret").chmod(0o644)
    text = CUSTOMER.replace('client_secret = "s3cr3t-canary"', 'client_secret_file = "secret"')
    settings = load(write(tmp_path, text), {})
    secret = settings.customers["acme"].client_secret
    assert secret is not None
    assert secret.get_secret_value() == "from a file"
    assert [warning.place for warning in settings.warnings] == ["customers.acme.client_secret_file"]


def test_a_secret_file_that_is_missing_or_given_twice_disables_its_customer(tmp_path: Path) -> None:
    missing = CUSTOMER.replace('client_secret = "s3cr3t-canary"', 'client_secret_file = "nowhere"')
    assert set(disabled(load(write(tmp_path, missing), {}))) == {"customers.acme.client_secret_file"}
    twice = CUSTOMER + 'client_secret_file = "receiver.toml"\n'
    assert "keep one" in disabled(load(write(tmp_path, twice), {}))["customers.acme.client_secret_file"]


def test_an_empty_secret_disables_its_customer_and_one_that_begins_with_a_bracket_is_a_secret(tmp_path: Path) -> None:
    settings = load(write(tmp_path, CUSTOMER), {"RECEIVER_CUSTOMERS__acme__WEBHOOK_TOKEN": ""})
    assert set(disabled(settings)) == {"RECEIVER_CUSTOMERS__acme__WEBHOOK_TOKEN"}
    secret = load(write(tmp_path, CUSTOMER), {"RECEIVER_CUSTOMERS__acme__CLIENT_SECRET": "[x"}).customers["acme"]
    assert secret.client_secret is not None
    assert secret.client_secret.get_secret_value() == "[x"


def test_a_configuration_with_secrets_that_all_may_read_is_a_warning(tmp_path: Path) -> None:
    file = write(tmp_path, CUSTOMER)
    file.chmod(0o644)
    assert [warning.place for warning in load(file, {}).warnings] == [str(file)]
    file.chmod(0o600)
    assert load(file, {}).warnings == ()


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    text = CUSTOMER + f'webhook_token = "{SECRET}"\n[broker]\nurl = "amqp://u:{SECRET}@x/"\n[store]\nurl = "sqlite:a"\n'
    assert SECRET not in repr(load(write(tmp_path, text), {}))


def test_presets_name_the_documented_addresses_and_no_others(tmp_path: Path) -> None:
    production = load(write(tmp_path, CUSTOMER), {}).customers["acme"]
    assert production.api == "https://hub.vectorcare.com/openapi/v2.0"
    assert production.token == "https://auth.vectorcare.com/v2.0/oauth2/token"
    uat = load(write(tmp_path, CUSTOMER + 'environment = "uat"\n'), {}).customers["acme"]
    assert (uat.api, uat.token) == ("https://hub-uat.vectorcare.com/openapi/v2.0", None)
