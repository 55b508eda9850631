// A receiver of webhooks on a free port of this machine: prints the port, and when COUNT deliveries have come, as one line
// of JSON, their headers and bodies.
import { createServer } from "node:http";

const count = Number(process.argv[2]);
const deliveries = [];
const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    deliveries.push({ headers: request.headers, body: Buffer.concat(chunks).toString() });
    response.writeHead(204).end(() => {
      if (deliveries.length !== count) return;
      console.log(JSON.stringify(deliveries));
      server.close();
      server.closeAllConnections();
      clearTimeout(impatience);
    });
  });
});
const impatience = setTimeout(() => {
  console.error(`${deliveries.length} of ${count} deliveries came within a minute`);
  process.exit(1);
}, 60_000);
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
