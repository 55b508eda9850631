"""Verifies recorded deliveries with PyPI's standardwebhooks, and that it refuses each of them once it is changed."""

import base64
import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

with open(sys.argv[1], encoding="utf-8") as file:
    deliveries = json.load(file)
if not deliveries:
    sys.exit("no delivery was recorded, so nothing is verified")

other_secret = "whsec_" + base64.b64encode(bytes([7] * 32)).decode()
for delivery in deliveries:
    secret, headers, body = delivery["secret"], delivery["headers"], delivery["body"]
    Webhook(secret).verify(body, headers)
    changed = {
        "body": (secret, body[:-1] + " }", headers),
        "id": (secret, body, headers | {"webhook-id": headers["webhook-id"] + "0"}),
        "secret": (other_secret, body, headers),
    }
    for what, (key, text, sent) in changed.items():
        try:
            Webhook(key).verify(text, sent)
        except WebhookVerificationError:
            continue
        sys.exit(f"{headers['webhook-id']} is accepted with another {what}")
print(f"standardwebhooks (PyPI) verifies {len(deliveries)} deliveries and refuses each when changed")
