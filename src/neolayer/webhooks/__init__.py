"""Webhooks: where a tenant's programs are told of events, over HTTP, signed and in order."""

from neolayer.webhooks.model import Delivery, NewWebhook, Webhook, WebhookNotFound
from neolayer.webhooks.signing import BadSignature, sign, verify
from neolayer.webhooks.store import Webhooks

__all__ = [
    "BadSignature",
    "Delivery",
    "NewWebhook",
    "Webhook",
    "WebhookNotFound",
    "Webhooks",
    "sign",
    "verify",
]
