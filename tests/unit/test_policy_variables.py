"""What rules can read beside the request: estimates, what the store knows, the clock; null where it is not known."""

from typing import Any

import pytest

from worker import policy
from worker.facts import Facts, Load, read_facts
from worker.policy import Policy, PolicyError, Sample

NOW = 1795435200.0  # 2026-11-23T12:00:00Z, a Monday; 04:00 in Los Angeles
MONDAY_NOON = "2026-11-23T20:00:00.000Z"
TABLES = """
timezone = "America/Los_Angeles"
[levels]
fields = ["service_level", "service_level_type"]
map = { WC = "wheelchair", BLS = "bls" }
[travel]
miles_factor = 1.5
mph = 30
stop_minutes = 10
[[travel.speeds]]
days = "mon-fri"
from = "15:00"
to = "18:00"
mph = 15
[[capacity]]
level = "wheelchair"
units = 5
days = "mon-sat"
from = "06:00"
to = "18:00"
[[capacity]]
level = "wheelchair"
units = 1
days = "fri"
from = "22:00"
to = "06:00"
"""
DEGREE = {"pickup_location": {"lat": 37.0, "lng": -122.0}, "destination_location": {"lat": 38.0, "lng": -122.0}}


def rules(tables: str = TABLES) -> Policy:
    return policy.read(tables)


def value(name: str, data: dict[str, Any] | None, facts: Facts | None = None, *, now: float = NOW, of: Policy) -> Any:
    node: Any = of.variables(Sample(data), now, facts or Facts())
    for step in name.split("."):
        node = node[step]
    return node


def free(pickup: str | None, in_use: int | None = 0, **data: Any) -> Any:
    request = {"service_level_type": "WC", "pickup_date_time": pickup, **data}
    return value("capacity.free", request, Facts(in_use=in_use), of=rules())


@pytest.mark.parametrize(
    ("data", "level"),
    [
        pytest.param({"service_level": "WC"}, "wheelchair", id="the first field"),
        pytest.param({"service_level": None, "service_level_type": "BLS"}, "bls", id="the next, where it says nothing"),
        pytest.param({"service_level": "XX", "service_level_type": "BLS"}, None, id="a word that is not in the map"),
        pytest.param({"service_level": 7}, None, id="not a word"),
        pytest.param({}, None, id="no field"),
        pytest.param(None, None, id="no data"),
    ],
)
def test_the_level_is_what_the_first_field_that_says_anything_means(data: Any, level: str | None) -> None:
    assert rules().level(data) == level
    assert value("trip.level", data, of=rules()) == level


def test_without_a_map_the_words_are_taken_as_they_are_and_without_levels_none_is_known() -> None:
    assert policy.read('levels.fields = ["l"]').level({"l": "CCT"}) == "CCT"
    assert policy.read("").level({"service_level_type": "CCT"}) is None


def test_miles_are_the_great_circle_times_the_factor_and_minutes_follow_from_the_speed() -> None:
    one_degree = 69.09
    miles = value("trip.miles", DEGREE, of=rules())
    assert miles == pytest.approx(one_degree * 1.5, rel=0.001)
    noon = {**DEGREE, "pickup_date_time": MONDAY_NOON}
    assert value("trip.minutes", noon, of=rules()) == pytest.approx(10 + miles / 30 * 60, abs=0.1)
    rush = {**DEGREE, "pickup_date_time": "2026-11-23T23:00:00Z"}  # 15:00
    assert value("trip.minutes", rush, of=rules()) == pytest.approx(10 + miles / 15 * 60, abs=0.1)
    over = {**DEGREE, "pickup_date_time": "2026-11-24T02:00:00Z"}  # 18:00
    assert value("trip.minutes", over, of=rules()) == pytest.approx(10 + miles / 30 * 60, abs=0.1)


@pytest.mark.parametrize(
    "place",
    [None, "Main St", {}, {"lat": 37.0}, {"lat": "37", "lng": -122}, {"lat": True, "lng": 1}, {"lat": 91, "lng": 0},
     {"lat": 0, "lng": 0}, {"lat": float("nan"), "lng": 1}],
)  # fmt: skip
def test_miles_and_minutes_are_null_where_a_place_has_no_position(place: Any) -> None:
    data = {**DEGREE, "destination_location": place, "pickup_date_time": MONDAY_NOON}
    assert value("trip.miles", data, of=rules()) is None
    assert value("trip.minutes", data, of=rules()) is None


def test_minutes_are_null_where_they_depend_on_a_pickup_that_is_not_known_or_on_no_speed() -> None:
    assert value("trip.minutes", DEGREE, of=rules()) is None
    assert value("trip.minutes", {**DEGREE, "pickup_date_time": MONDAY_NOON}, of=policy.read("")) is None


def test_a_field_of_the_request_may_say_miles_and_minutes() -> None:
    own = policy.read('[travel]\nmiles_field = "m"\nminutes_field = "t"')
    assert value("trip.miles", {**DEGREE, "m": 4}, of=own) == 4
    assert value("trip.minutes", {"t": 12}, of=own) == 12
    assert value("trip.minutes", {"t": "12"}, of=own) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param({"return_on_will_call": True}, True, id="yes"),
        pytest.param({"return_on_will_call": False}, False, id="no"),
        pytest.param({}, None, id="nobody says"),
        pytest.param({"return_on_will_call": "yes"}, None, id="not a truth"),
    ],
)
def test_will_call_is_what_the_request_says_of_the_way_back(data: dict[str, Any], expected: bool | None) -> None:
    assert value("trip.will_call", data, of=rules()) is expected


@pytest.mark.parametrize(
    ("pickup", "in_use", "expected"),
    [
        pytest.param(MONDAY_NOON, 2, 3, id="units less those in use"),
        pytest.param(MONDAY_NOON, 7, -2, id="more in use than declared"),
        pytest.param(MONDAY_NOON, None, None, id="in use is not known"),
        pytest.param(None, 0, None, id="pickup is not known"),
        pytest.param("soon", 0, None, id="pickup is no time"),
        pytest.param("2026-11-23T13:59:00Z", 0, 0, id="05:59, before the window"),
        pytest.param("2026-11-23T14:00:00Z", 0, 5, id="06:00, its first minute"),
        pytest.param("2026-11-24T01:59:00Z", 0, 5, id="17:59, its last"),
        pytest.param("2026-11-24T02:00:00Z", 0, 0, id="18:00, after it"),
        pytest.param("2026-11-22T20:00:00Z", 0, 0, id="Sunday"),
        pytest.param("2026-11-28T06:00:00Z", 0, 1, id="Friday 22:00"),
        pytest.param("2026-11-28T13:59:00Z", 0, 1, id="Saturday 05:59, from Friday's window"),
        pytest.param("2026-11-29T06:00:00Z", 0, 0, id="Saturday 22:00"),
        pytest.param("2026-07-06T13:00:00Z", 0, 5, id="06:00 in summer"),
    ],
)
def test_free_units_are_those_declared_for_level_and_local_time_less_those_in_use(
    pickup: str | None, in_use: int | None, expected: int | None
) -> None:
    assert free(pickup, in_use) == expected


def test_free_units_are_null_for_a_level_that_is_unknown_or_has_no_units_declared() -> None:
    assert free(MONDAY_NOON, service_level_type=None) is None
    assert free(MONDAY_NOON, service_level_type="BLS") is None


def test_units_of_windows_that_overlap_add_up() -> None:
    two = policy.read(
        'levels.fields = ["l"]\n[[capacity]]\nlevel = "a"\nunits = 2\n'
        '[[capacity]]\nlevel = "a"\nunits = 3\nfrom = "12:00"\n'
    )
    data = {"l": "a", "pickup_date_time": "2026-11-23T12:00:00Z"}
    assert value("capacity.free", data, Facts(in_use=1), of=two) == 4


def test_what_the_store_knows_is_read_as_it_says() -> None:
    facts = Facts(
        Load(open=4, overlapping=2, today=9, last_hour=1),
        other_leg="assigned",
        collection_held=3,
        collection_seen=5,
        first_offered_at=NOW - 90,
        times_seen=2,
        proposals=1,
    )
    expected = {
        "load": {"open": 4, "overlapping": 2, "today": 9, "last_hour": 1},
        "other_leg": {"state": "assigned"},
        "collection": {"held": 3, "seen": 5},
        "offer": {"age_minutes": 1.5, "times_seen": 2, "proposals": 1},
    }
    found = rules().variables(Sample({}), NOW, facts)
    assert {name: found[name] for name in expected} == expected


def test_an_offer_seen_for_the_first_time_is_no_minutes_old() -> None:
    assert value("offer.age_minutes", {}, Facts(), of=rules()) == 0
    assert value("offer.age_minutes", {}, Facts(times_seen=2), of=rules()) is None


def test_now_local_is_now_in_the_policys_time_zone() -> None:
    assert value("now_local", {}, of=rules()) == {"hour": 4, "minute": 0, "weekday": 1, "date": "2026-11-23"}


def test_a_policy_says_which_of_the_stores_variables_its_rules_read() -> None:
    text = "[[rules]]\nname = 'a'\nthen = 'hold'\nwhen = '''{}'''\n"
    assert policy.read(text.format("load.open > 3 && known(capacity.free)")).asks == {"load", "capacity"}
    assert policy.read(text.format("trip.miles > 3 && now_local.hour > 3 && lead_minutes > 1")).asks == set()
    assert policy.read(
        text.format("default(other_leg.state, '') == '' && offer['times_seen'] > 1 && known(collection.held)")
    ).asks == {"other_leg", "offer", "collection"}


@pytest.mark.parametrize("when", ["trip.levle == 'a'", "load.total > 1", "known(capacity.units)", "local['day'] == 1"])
def test_a_variables_field_that_there_is_not_is_refused_with_those_that_there_are(when: str) -> None:
    with pytest.raises(PolicyError) as refused:
        policy.read(f"[[rules]]\nname = 'a'\nthen = 'hold'\nwhen = '''{when}'''\n")
    assert "there are" in refused.value.problems[0][1]


def test_facts_come_back_as_they_were_kept_and_unknown_ones_are_left_out() -> None:
    assert read_facts({"load": {"open": 3, "new": 1}, "in_use": 2, "later": 9}) == Facts(Load(open=3), in_use=2)
    assert read_facts(None) == Facts()
