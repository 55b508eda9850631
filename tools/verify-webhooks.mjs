// Verifies recorded deliveries with npm's standardwebhooks, and that it refuses each of them once it is changed. The library
// knows only `v1`, so the `v1a` signatures are verified with Node's own Ed25519.
import { createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const deliveries = JSON.parse(readFileSync(process.argv[2], "utf8"));
if (deliveries.length === 0) throw new Error("no delivery was recorded, so nothing is verified");

const otherSecret = "whsec_" + Buffer.alloc(32, 7).toString("base64");
const isSignedBy = (publicKey, headers, body) => {
  // A raw Ed25519 key becomes one that Node reads by this beginning of a SubjectPublicKeyInfo (RFC 8410).
  const spki = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), Buffer.from(publicKey.slice(5), "base64")]);
  const key = createPublicKey({ key: spki, format: "der", type: "spki" });
  const signed = Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${body}`);
  const signatures = headers["webhook-signature"].split(" ").filter((signature) => signature.startsWith("v1a,"));
  return signatures.some((signature) => verify(null, signed, key, Buffer.from(signature.slice(4), "base64")));
};
for (const { secret, public_key: publicKey, headers, body } of deliveries) {
  new Webhook(secret).verify(body, headers);
  if (!isSignedBy(publicKey, headers, body)) throw new Error(`${headers["webhook-id"]} has no v1a signature that fits`);
  if (isSignedBy(publicKey, headers, body + " ")) throw new Error(`${headers["webhook-id"]} is signed whatever it says`);
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
console.log(`standardwebhooks (npm) and Ed25519 (Node) verify ${deliveries.length} deliveries and refuse each when changed`);
