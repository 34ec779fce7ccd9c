"""Invents the trips: complete `data` for the three documented kinds, with patients who don't exist."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

from sandbox.identifiers import short_id

KINDS = ("bls", "critical_care", "dialysis")

LEVELS: Mapping[str, str] = MappingProxyType({"bls": "BLS", "critical_care": "CCT", "dialysis": "WC"})
"""What v1 called `service_level_type`; accounts may name their own levels."""

FIELDS = (
    "account_name",
    "agreed_for_time",
    "pickup_date_time",
    "change_request_enabled",
    "collection_id",
    "organization_id",
    "facility_name",
    "service_request_web_url",
    "is_round_trip_first_trip",
    "is_round_trip_return_trip",
    "round_trip_other_service_request_id",
    "revised_eta",
    "travel_authorization_number",
    "override_approver",
    "override_reason",
    "pickup_location",
    "destination_location",
    "patient_active_membership",
    "patient_age",
    "patient_coverages",
    "patient_date_of_birth",
    "patient_first_name",
    "patient_middle_name",
    "patient_last_name",
    "patient_gender",
    "patient_girth_inches",
    "patient_height_inches",
    "patient_id",
    "patient_interpreter_required",
    "patient_language_spoken",
    "patient_language_written",
    "patient_membership_primary_id",
    "patient_membership_primary_prefix",
    "patient_membership_secondary_id",
    "patient_membership_secondary_prefix",
    "patient_over_300p",
    "patient_weight_kg",
    "patient_weight_lbs",
    "patient_is_ready",
    "cct_criteria",
    "intravenous_therapy",
    "medical_supervision",
    "medications",
    "isolation_precaution",
    "hospice",
    "is_dialysis_trip",
    "is_inpatient",
    "is_recent_onset",
    "can_ambulate",
    "has_own_wheelchair",
    "escalated",
    "pickup_is_home",
    "destination_is_home",
    "return_on_will_call",
    "wait_and_return",
)
"""Every field of `data` whose name is documented; `additional_passenger_…` is known by its prefix only."""


class _Place(NamedTuple):
    name: str
    street: str
    city: str
    zip: str
    lat: float
    lng: float


_HOSPITALS = (
    _Place("Bayview General Hospital", "1500 Alder Avenue", "Oakland", "94609", 37.8236, -122.2653),
    _Place("Mission Creek Medical Center", "24 Harbor Street", "San Francisco", "94110", 37.7556, -122.4051),
    _Place("Marin Ridge Hospital", "250 Redwood Road", "Greenbrae", "94904", 37.9476, -122.5366),
    _Place("North Peninsula Heart Institute", "1783 El Camino", "Burlingame", "94010", 37.5921, -122.3817),
)
_CLINICS = (
    _Place("Sunrise Imaging Center", "88 Lakeside Drive", "San Rafael", "94901", 37.9716, -122.5231),
    _Place("Valley Diagnostic Imaging", "410 Telegraph Avenue", "Oakland", "94609", 37.8330, -122.2632),
)
_DIALYSIS = (
    _Place("Bayside Dialysis", "520 Grand Avenue", "San Rafael", "94901", 37.9690, -122.5155),
    _Place("Golden Hills Kidney Care", "1195 Fruitvale Avenue", "Oakland", "94601", 37.7793, -122.2258),
)
_HOMES = (
    _Place("12 Larkspur Lane", "12 Larkspur Lane", "San Rafael", "94903", 38.0108, -122.5470),
    _Place("745 Foothill Boulevard", "745 Foothill Boulevard", "Oakland", "94606", 37.7968, -122.2497),
    _Place("31 Seacliff Court", "31 Seacliff Court", "Sausalito", "94965", 37.8590, -122.4853),
)
_FIRST = ("Angela", "Bruno", "Carla", "Dmitri", "Esther", "Felix", "Grace", "Hector", "Imani", "Keiko")
_LAST = ("Abbott", "Barnes", "Castillo", "Dawson", "Eklund", "Fontaine", "Guerrero", "Hoang", "Jensen")


def iso(when: datetime) -> str:
    """ISO 8601 UTC with milliseconds, as VectorCare writes times."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def iso_at(at: float) -> str:
    """Unix seconds as VectorCare writes times."""
    return iso(datetime.fromtimestamp(at, UTC))


def _location(place: _Place) -> dict[str, Any]:
    return {
        "address": f"{place.street}, {place.city}, California {place.zip}, United States",
        "city": place.city,
        "country": "United States",
        "lat": place.lat,
        "lng": place.lng,
        "name": place.name,
        "state": "CA",
        "street": place.street,
        "zip": place.zip,
    }


def _patient(chance: Random, today: date) -> dict[str, Any]:
    age = chance.randint(34, 93)
    birthday = date(today.year - age, 1, 1) + timedelta(days=chance.randrange(365))
    if (birthday.month, birthday.day) > (today.month, today.day):
        age -= 1
    pounds = chance.randint(96, 296)
    coverage = chance.choice(("Medicare", "Medi-Cal", "Blue Shield", "Kaiser"))
    return {
        "patient_active_membership": "Yes",
        "patient_age": age,
        "patient_coverages": [coverage],
        "patient_date_of_birth": birthday.isoformat(),
        "patient_first_name": chance.choice(_FIRST),
        "patient_middle_name": chance.choice((None, "Lee", "Marie", "Ray")),
        "patient_last_name": chance.choice(_LAST),
        "patient_gender": chance.choice(("Female", "Male")),
        "patient_girth_inches": chance.randint(28, 58),
        "patient_height_inches": chance.randint(58, 76),
        "patient_id": short_id(chance),
        "patient_interpreter_required": "No",
        "patient_language_spoken": "English",
        "patient_language_written": "English",
        "patient_membership_primary_id": str(chance.randrange(10**8, 10**9)),
        "patient_membership_primary_prefix": "MRN",
        "patient_over_300p": "No",
        "patient_weight_kg": round(pounds / 2.2046, 1),
        "patient_weight_lbs": pounds,
    }


def _bls(chance: Random) -> dict[str, Any]:
    """An inpatient who is taken to a CT scan and back, under isolation."""
    return {
        "pickup_location": _location(chance.choice(_HOSPITALS)),
        "destination_location": _location(chance.choice(_CLINICS)),
        "isolation_precaution": True,
        "is_inpatient": True,
        "is_dialysis_trip": False,
        "can_ambulate": False,
        "has_own_wheelchair": False,
        "patient_is_ready": True,
        "pickup_is_home": False,
        "destination_is_home": False,
        "wait_and_return": True,
        "medical_supervision": "Oxygen, 2 L nasal cannula",
    }


def _critical_care(chance: Random) -> dict[str, Any]:
    """A transfer between hospitals with an infusion running and monitoring."""
    origin, target = chance.sample(_HOSPITALS, 2)
    return {
        "pickup_location": _location(origin),
        "destination_location": _location(target),
        "cct_criteria": "Cardiac monitoring, vasoactive infusion",
        "intravenous_therapy": "Norepinephrine 8 mcg/min, central line",
        "medical_supervision": "Critical care nurse, continuous cardiac monitoring",
        "medications": "Norepinephrine, fentanyl",
        "isolation_precaution": False,
        "is_inpatient": True,
        "is_recent_onset": True,
        "is_dialysis_trip": False,
        "can_ambulate": False,
        "has_own_wheelchair": False,
        "patient_is_ready": True,
        "escalated": True,
        "pickup_is_home": False,
        "destination_is_home": False,
        "wait_and_return": False,
    }


def _dialysis(chance: Random) -> dict[str, Any]:
    """The first leg of a wheelchair round trip from home to dialysis, one of a standing order."""
    return {
        "pickup_location": _location(chance.choice(_HOMES)),
        "destination_location": _location(chance.choice(_DIALYSIS)),
        "collection_id": short_id(chance),
        "is_round_trip_first_trip": True,
        "is_round_trip_return_trip": False,
        "is_dialysis_trip": True,
        "is_inpatient": False,
        "can_ambulate": False,
        "has_own_wheelchair": True,
        "isolation_precaution": False,
        "pickup_is_home": True,
        "destination_is_home": False,
        "return_on_will_call": False,
        "wait_and_return": False,
    }


_MAKERS = {"bls": _bls, "critical_care": _critical_care, "dialysis": _dialysis}


def trip(kind: str, chance: Random, now: datetime, lead_minutes: float) -> dict[str, Any]:
    """Complete `data` of that kind (one of KINDS, else KeyError), picked up `lead_minutes` after `now`."""
    pickup = iso(now + timedelta(minutes=lead_minutes))
    data: dict[str, Any] = dict.fromkeys(FIELDS)
    data |= {
        "agreed_for_time": pickup,
        "pickup_date_time": pickup,
        "change_request_enabled": True,
        "is_round_trip_first_trip": False,
        "is_round_trip_return_trip": False,
        "hospice": False,
        "travel_authorization_number": str(chance.randrange(10**6, 10**7)),
    }
    data |= _patient(chance, now.date())
    data |= _MAKERS[kind](chance)
    at_home = data["pickup_is_home"]
    data["facility_name"] = "Renal Care Coordination" if at_home else data["pickup_location"]["name"]
    return data


def later(data: Mapping[str, Any], days: float) -> dict[str, Any]:
    """The same trip that many days later."""
    pickup = iso(datetime.fromisoformat(data["pickup_date_time"]) + timedelta(days=days))
    return {**data, "pickup_date_time": pickup, "agreed_for_time": pickup}


def return_leg(data: Mapping[str, Any], after_minutes: float = 240.0) -> dict[str, Any]:
    """The way back of a round trip: the same patient, the places swapped, hours later."""
    pickup = datetime.fromisoformat(data["pickup_date_time"]) + timedelta(minutes=after_minutes)
    return {
        **data,
        "pickup_location": data["destination_location"],
        "destination_location": data["pickup_location"],
        "pickup_is_home": data["destination_is_home"],
        "destination_is_home": data["pickup_is_home"],
        "pickup_date_time": iso(pickup),
        "agreed_for_time": iso(pickup),
        "is_round_trip_first_trip": False,
        "is_round_trip_return_trip": True,
    }
