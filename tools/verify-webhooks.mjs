// Verifies recorded deliveries with npm's standardwebhooks, and that it refuses each of them once it is changed.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const deliveries = JSON.parse(readFileSync(process.argv[2], "utf8"));
if (deliveries.length === 0) throw new Error("no delivery was recorded, so nothing is verified");

const otherSecret = "whsec_" + Buffer.alloc(32, 7).toString("base64");
for (const { secret, headers, body } of deliveries) {
  new Webhook(secret).verify(body, headers);
  const changed = {
    body: () => new Webhook(secret).verify(body.replace(/.$/s, " }"), headers),
    id: () => new Webhook(secret).verify(body, { ...headers, "webhook-id": headers["webhook-id"] + "0" }),
    secret: () => new Webhook(otherSecret).verify(body, headers),
  };
  for (const [what, verify] of Object.entries(changed)) {
    let accepted = true;
    try {
      verify();
    } catch {
      accepted = false;
    }
    if (accepted) throw new Error(`${headers["webhook-id"]} is accepted with another ${what}`);
  }
}
console.log(`standardwebhooks (npm) verifies ${deliveries.length} deliveries and refuses each when changed`);
