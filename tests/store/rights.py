"""
The columns that each role may insert, update or read, where these are not all of the table.

schema.sql has the table of tables and roles; this is the part that does not fit there.
"""

from __future__ import annotations

from typing import Final

ROLES: Final = ("teller_api", "teller_worker", "teller_courier", "teller_archive")

_CODE: Final = "id destination created_at expires_at used_at wrong has_turn due_at tries token"

#: Table and role: the names of the columns by verb.
_COLUMNS: Final = {
    ("accounts", "teller_api"): {
        "INSERT": "client_id name",
        "UPDATE": "email updated_at protected_email protected_until email_since quick_since quick_changes",
    },
    ("address_changes", "teller_api"): {"INSERT": "client_id account email became stood_since"},
    ("address_changes", "teller_courier"): {"UPDATE": "due_at tries token"},
    ("alarms", "teller_worker"): {"INSERT": "code partition detail", "UPDATE": "detail seen_at"},
    ("api_keys", "teller_api"): {
        "INSERT": "id client_id name role digest expires_at",
        "UPDATE": "revoked_at last_used_at",
    },
    ("archived_decisions", "teller_archive"): {"UPDATE": "decisions sequences last"},
    ("archived_usages", "teller_archive"): {"UPDATE": "used day day_used"},
    ("archives", "teller_archive"): {
        "INSERT": "number name digest before requests entries first_id last_id clients ids"
    },
    ("attempts", "teller_courier"): {
        "INSERT": "request_id leg token",
        "UPDATE": "ended_at status outcome error",
    },
    ("audit", "teller_api"): {"INSERT": "actor action request_id reason detail"},
    ("audit", "teller_archive"): {"INSERT": "actor action reason detail"},
    ("bulk_actions", "teller_api"): {
        "INSERT": "id action reason filter actor client_id key_id",
        "UPDATE": "matched done sent finished_at stopped_by",
    },
    ("bulk_items", "teller_api"): {
        "INSERT": "action_id place request_id version",
        "UPDATE": "outcome problem refund_id",
    },
    ("clients", "teller_api"): {"INSERT": "id"},
    ("code_guesses", "teller_api"): {"INSERT": "client_id destination day wrong", "UPDATE": "wrong"},
    ("code_turns", "teller_api"): {"INSERT": "destination taken_at", "UPDATE": "taken_at"},
    ("code_turns", "teller_courier"): {"INSERT": "destination taken_at", "UPDATE": "taken_at"},
    ("codes", "teller_api"): {
        "INSERT": "id client_id destination purpose created_at expires_at has_turn due_at",
        "UPDATE": f"{_CODE} request_wrong",
    },
    ("codes", "teller_courier"): {"UPDATE": "has_turn due_at tries token expires_at"},
    ("codes", "teller_worker"): {
        "INSERT": "id client_id destination request_id created_at has_turn due_at",
        "UPDATE": _CODE,
    },
    ("console_sessions", "teller_api"): {"INSERT": "digest key_id expires_at"},
    ("decisions", "teller_worker"): {"UPDATE": "current"},
    ("deliveries", "teller_api"): {"UPDATE": "status due_at tries"},
    ("deliveries", "teller_courier"): {
        "INSERT": "request_id version type webhook_id",
        "UPDATE": "status due_at tries token last_status last_error delivered_at",
    },
    ("daily_usages", "teller_worker"): {"UPDATE": "day used limit"},
    ("deliveries", "teller_worker"): {"INSERT": "request_id version type email client_id"},
    ("effects", "teller_courier"): {
        "UPDATE": "due_at tries token leased_until outcome reference reason answered_at"
    },
    ("effects", "teller_worker"): {
        "INSERT": "request_id partition gateway client_id created_at due_at",
        "UPDATE": "due_at tries outcome reason voided_at",
    },
    ("fanouts", "teller_worker"): {"INSERT": "webhook_id request_ids versions"},
    ("mail_counts", "teller_courier"): {
        "INSERT": "client_id kind mailbox hour mails",
        "UPDATE": "hour mails",
    },
    ("gateway_breakers", "teller_courier"): {
        "INSERT": "gateway client_id failures is_open",
        "UPDATE": "failures is_open",
    },
    ("gateways", "teller_courier"): {"INSERT": "name", "UPDATE": "open_until probed"},
    ("inbox", "teller_api"): {"INSERT": "partition request_id verb payload"},
    ("inbox", "teller_courier"): {"INSERT": "partition request_id verb leg"},
    ("inbox", "teller_worker"): {"INSERT": "partition request_id verb"},
    ("ownership", "teller_worker"): {"UPDATE": "worker_id since"},
    ("partitions", "teller_worker"): {"UPDATE": "sequence drained_at low_water next_low_water next_xid"},
    ("pauses", "teller_api"): {"INSERT": "partition actor"},
    ("requests", "teller_api"): {
        "INSERT": "id client_id created_by idempotency_key fingerprint kind partition resource_id account amount"
        " apply_before refund_of details metadata x_request_id traceparent"
    },
    ("reservations", "teller_api"): {"UPDATE": "command accepted_at amount"},
    ("reservations", "teller_worker"): {
        "INSERT": "request_id partition expires_at held partitions",
        "UPDATE": "request_id",
    },
    ("resources", "teller_worker"): {
        "UPDATE": "unit client_id available held version overdraft per_account_limit starts_at ends_at gateway"
        " confirm_above approve_above metadata closed_at digest last_entry_at per_account_daily_limit"
    },
    ("sandbox_calls", "teller_api"): {"INSERT": "request_id status"},
    ("sandbox_payouts", "teller_api"): {"INSERT": "request_id"},
    ("usages", "teller_worker"): {"UPDATE": "used limit"},
    ("webhooks", "teller_api"): {
        "INSERT": "id client_id url events secret",
        "UPDATE": "secret previous_secret previous_until",
    },
    ("webhooks", "teller_courier"): {
        "UPDATE": "disabled_at disabled_reason failing_since failing_tries failing_error"
    },
    ("webhooks", "teller_worker"): {
        "SELECT": "id client_id url events previous_until created_at disabled_at disabled_reason"
    },
    ("workers", "teller_worker"): {"INSERT": "id host pid alive_until", "UPDATE": "alive_until"},
}


def columns(table: str, role: str, verb: str) -> frozenset[str] | None:
    """
    Return the columns of the table that the role may use with this verb; None: all.
    """
    names = _COLUMNS.get((table, role), {}).get(verb)
    return None if names is None else frozenset(names.split())
