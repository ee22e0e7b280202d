// A WebSocket echo (RFC 6455) without a library: `node websocket.js serve PORT` or
// `node websocket.js talk HOST PORT MESSAGES`. Messages are text of up to 64 KiB.

const crypto = require("node:crypto");
const http = require("node:http");

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const accept = (key) => crypto.createHash("sha1").update(key + GUID).digest("base64");

function frame(text, masked) {
  const body = Buffer.from(text);
  const long = body.length > 125;
  const head = Buffer.alloc(long ? 4 : 2);
  head[0] = 0x81;
  head[1] = (masked ? 0x80 : 0) | (long ? 126 : body.length);
  if (long) head.writeUInt16BE(body.length, 2);
  if (!masked) return Buffer.concat([head, body]);
  const mask = crypto.randomBytes(4);
  return Buffer.concat([head, mask, body.map((byte, at) => byte ^ mask[at % 4])]);
}

// Calls `each` with every whole text frame that arrives.
function listen(socket, each) {
  let buffer = Buffer.alloc(0);
  socket.on("data", (data) => {
    buffer = Buffer.concat([buffer, data]);
    for (;;) {
      if (buffer.length < 2) return;
      let [at, length] = [2, buffer[1] & 0x7f];
      if (length === 126) {
        if (buffer.length < 4) return;
        [at, length] = [4, buffer.readUInt16BE(2)];
      }
      const masked = buffer[1] & 0x80;
      const body = at + (masked ? 4 : 0);
      if (buffer.length < body + length) return;
      const bytes = Buffer.from(buffer.subarray(body, body + length));
      if (masked) bytes.forEach((byte, i) => (bytes[i] = byte ^ buffer[at + (i % 4)]));
      buffer = buffer.subarray(body + length);
      each(bytes.toString());
    }
  });
}

function serve(port) {
  const server = http.createServer();
  server.on("upgrade", (request, socket) => {
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        `Sec-WebSocket-Accept: ${accept(request.headers["sec-websocket-key"])}\r\n\r\n`,
    );
    listen(socket, (text) => socket.write(frame(text, false)));
    socket.on("end", () => socket.end());
    socket.on("error", () => {});
  });
  server.listen(port, "0.0.0.0", () => console.log("listening"));
}

function talk(host, port, messages) {
  const key = crypto.randomBytes(16).toString("base64");
  const headers = {
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-key": key,
    "sec-websocket-version": 13,
  };
  const request = http.get({ host, port, headers });
  request.on("upgrade", (response, socket) => {
    if (response.headers["sec-websocket-accept"] !== accept(key)) throw new Error("wrong accept");
    const message = (n) => `SEALWIRE-PLAINTEXT-MARKER ${n} ` + "x".repeat((n * 37) % 60000);
    let echoed = 0;
    listen(socket, (text) => {
      if (text !== message(echoed)) throw new Error(`message ${echoed} came back as another`);
      echoed += 1;
      if (echoed < messages) return socket.write(frame(message(echoed), true));
      console.log(`${echoed} echoed`);
      socket.end();
    });
    socket.write(frame(message(0), true));
  });
}

const [role, ...rest] = process.argv.slice(2);
if (role === "serve") serve(Number(rest[0]));
else talk(rest[0], Number(rest[1]), Number(rest[2]));
