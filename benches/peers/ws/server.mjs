// A peer to compare with: the broadcast server one writes first with the npm package `ws`. One channel is one Set of
// sockets; the frames are those of benches/peers/tungstenite.rs, so the same options of the load generator serve both.
//
//   npm ci && node server.mjs 127.0.0.1:9900
import { WebSocketServer } from "ws";

const [host, port] = (process.argv[2] ?? "127.0.0.1:9900").split(":");
const channels = new Map();

const server = new WebSocketServer({ host, port: Number(port), perMessageDeflate: false, backlog: 4096 });
server.on("listening", () => console.log(`listening on ${host}:${port}`));
server.on("connection", (socket) => {
    let own;
    socket.on("message", (data) => {
        const text = data.toString();
        if (text.startsWith("subscribe ")) {
            const name = text.slice("subscribe ".length);
            own = channels.get(name) ?? new Set();
            channels.set(name, own.add(socket));
            socket.send("ok");
        } else if (text.startsWith("publish ")) {
            const [, name, payload] = /^publish (\S+) (.*)$/s.exec(text) ?? [];
            for (const subscriber of channels.get(name) ?? []) subscriber.send(payload);
        }
    });
    socket.on("error", () => socket.terminate());
    socket.on("close", () => own?.delete(socket));
});
