"""Webhooks: where a tenant's programs are told of events, over HTTP, signed and in order."""

from neolayer.webhooks.deliverer import Deliverer, Policy, policy_of
from neolayer.webhooks.model import Delivery, NewWebhook, Webhook, WebhookNotFound
from neolayer.webhooks.signing import BadSignature, sign, verify
from neolayer.webhooks.store import Webhooks

__all__ = [
    "BadSignature",
    "Deliverer",
    "Delivery",
    "NewWebhook",
    "Policy",
    "Webhook",
    "WebhookNotFound",
    "Webhooks",
    "policy_of",
    "sign",
    "verify",
]
