// The chat: rooms, who is here, joins and leaves, history after a reload, a live count, letters to who is away.

import { Client } from "./client.js";
import { Identity } from "./identity.js";
import { Letters } from "./letters.js";
import { People } from "./people.js";

const NAMESPACE = "room";
const ROOMS = ["lobby", "workshop", "garden", "night-shift"];
const HISTORY = 100;
const LINES_MAX = 400;
/** Messages of one author within this time share one heading. */
const GROUP_MS = 3 * 60_000;
/** Within this distance of the end the log follows new messages. */
const NEAR_END_PX = 80;
const COUNTS_EVERY_MS = 10_000;
/** Someone who comes back this soon has only lost the network or reloaded: no "left", no "joined". */
const ABSENCE_MS = 3_000;
/** People who left and are still listed with their state. */
const GONE_MAX = 20;

const byId = (id) => document.getElementById(id);
const page = {
  status: byId("status"), statusText: byId("status-text"), retry: byId("retry"),
  me: byId("me"), meName: byId("me-name"), meAvatar: byId("me-avatar"),
  rooms: byId("rooms"), newRoom: byId("new-room"), newRoomName: byId("new-room-name"),
  title: byId("room-title"), count: byId("count"), scroller: byId("scroller"), log: byId("log"),
  empty: byId("empty"), toEnd: byId("to-end"), composer: byId("composer"), text: byId("text"), send: byId("send"),
  problem: byId("problem"), people: byId("people"), gone: byId("gone"),
  goneTitle: byId("gone-title"), panel: byId("people-panel"), toggle: byId("people-toggle"),
  closePanel: byId("people-close"), rename: byId("rename"), renameForm: byId("rename-form"),
  renameName: byId("rename-name"), renameCancel: byId("rename-cancel"),
};

// ---- who we are ----

const me = await Identity.take(randomName);

function randomName() {
  const first = ["Quiet", "Brisk", "Amber", "Mossy", "Silver", "Early", "Patient", "Wandering"];
  const second = ["Heron", "Otter", "Willow", "Minnow", "Reed", "Kingfisher", "Newt", "Dragonfly"];
  const pick = (words) => words[Math.floor(Math.random() * words.length)];
  return `${pick(first)} ${pick(second)}`;
}

async function getToken() {
  const response = await fetch("/demo/token", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name: me.name, token: me.token }),
  });
  if (!response.ok) throw new Error(`token: ${response.status}`);
  me.keep(await response.json());
  showMe();
  return me.token;
}

function showMe() {
  page.meName.textContent = me.name;
  dress(page.meAvatar, me.user, me.name);
}

// ---- connection ----

const path = document.querySelector("meta[name=millpond-websocket]").content;
const client = new Client({ url: `${location.protocol.replace("http", "ws")}//${location.host}${path}`, getToken });
let countdown = 0;

client.addEventListener("state", ({ detail }) => {
  clearInterval(countdown);
  page.status.dataset.state = detail.state;
  page.retry.hidden = detail.state !== "waiting" && detail.state !== "stopped";
  page.send.disabled = detail.state !== "connected";
  const say = (text) => { if (page.statusText.textContent !== text) page.statusText.textContent = text; };
  if (detail.state === "connected") {
    say("Connected");
    updateCounts();
  } else if (detail.state === "stopped") {
    say(`Disconnected: ${detail.reason || "closed by the server"}`);
  } else if (detail.state === "connecting") {
    if (page.statusText.textContent === "Connected") say("Connecting…");
  } else {
    const tick = () => {
      const seconds = Math.ceil((detail.retryAt - Date.now()) / 1000);
      say(seconds > 1 ? `Reconnecting in ${seconds} s` : "Reconnecting…");
    };
    tick();
    countdown = setInterval(tick, 1000);
  }
});
page.retry.addEventListener("click", () => client.connect());
addEventListener("online", () => { if (page.status.dataset.state === "waiting") client.connect(); });

const people = new People(client, () => { if (room) drawPeople(); });

// ---- letters ----

const mayWrite = document.querySelector("meta[name=millpond-mailboxes]").content === "on";
const letters = new Letters(client, {
  section: byId("letters"), list: byId("letters-list"), dismiss: byId("letters-dismiss"), dialog: byId("letter"),
  form: byId("letter-form"), title: byId("letter-title"), text: byId("letter-text"), cancel: byId("letter-cancel"),
  problem: byId("letter-problem"),
}, letterLine, () => me.token);

function letterLine({ from = "", name = "", text, time }, waited) {
  const by = element("p", { class: "by" }, element("span", { class: "author" }, name || from), " ", clock(time ?? Date.now()));
  if (waited) by.append(" ", element("span", { class: "waited" }, "while you were away"));
  const avatar = dress(element("span", { class: "avatar", "aria-hidden": "true" }), from, name || from);
  return element("li", { class: "letter" }, avatar, by, element("p", { class: "text" }, text));
}

// ---- rooms ----

const known = new Set(ROOMS);
const counts = new Map();
const roomLines = new Map();
let room = null;

function roomFromHash() {
  const name = slug(decodeURIComponent(location.hash.slice(1)));
  return name || ROOMS[0];
}

function slug(text) {
  return text.toLowerCase().trim().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 32);
}

function title(name) {
  return name.charAt(0).toUpperCase() + name.slice(1).replaceAll("-", " ");
}

/** Lines are kept and changed in place, so that keyboard focus stays where it is. */
function showRooms() {
  for (const name of known) {
    const { link, count } = roomLines.get(name) ?? addRoom(name);
    if (room?.name === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    const number = counts.get(name);
    count.replaceChildren(...(number ? [String(number), element("span", { class: "sr" }, " here")] : []));
  }
}

function addRoom(name) {
  const count = element("span", { class: "room-count" });
  const link = element("a", { href: `#${name}` }, element("span", { class: "room-name" }, title(name)), count);
  page.rooms.append(element("li", {}, link));
  roomLines.set(name, { link, count });
  return roomLines.get(name);
}

async function updateCounts() {
  if (!client.connected || document.hidden) return;
  await Promise.all([...known].map(async (name) => {
    const stats = await client.request("presence_stats", { channel: `${NAMESPACE}:${name}` }).catch(() => null);
    if (stats) counts.set(name, stats.num_users);
  }));
  showRooms();
}
setInterval(updateCounts, COUNTS_EVERY_MS);
document.addEventListener("visibilitychange", updateCounts);

page.newRoom.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = slug(page.newRoomName.value);
  if (!name) return;
  page.newRoomName.value = "";
  location.hash = name;
});

/** What is shown of one room; `subscription` feeds it. */
function enter(name) {
  room?.subscription.unsubscribe();
  known.add(name);
  room = { name, people: new Map(), gone: new Map(), offsets: new Set(), last: null, absent: new Map() };
  const mine = room;
  const ifShown = (handler) => (value) => { if (room === mine) handler(value); };
  page.title.textContent = title(name);
  document.title = `${title(name)} · millpond`;
  page.log.replaceChildren();
  page.empty.hidden = true;
  page.toEnd.hidden = true;
  page.problem.textContent = "";
  showPeople();
  roomLines.get(name).link.scrollIntoView({ block: "nearest", inline: "center" });
  room.subscription = client.subscribe(`${NAMESPACE}:${name}`, {
    subscribed: ifShown(({ recovered }) => begin(recovered)),
    publication: ifShown((publication) => showMessage(publication)),
    join: ifShown(joined),
    leave: ifShown(left),
    error: ifShown((error) => { page.problem.textContent = `This room cannot be entered: ${error.message}.`; }),
  });
}

async function begin(recovered) {
  const mine = room;
  const [presence, history] = await Promise.all([
    mine.subscription.presence().catch(() => null),
    recovered ? null : mine.subscription.history(HISTORY).catch(() => null),
  ]);
  if (room !== mine) return;
  if (presence) {
    mine.people = new Map(Object.values(presence.presence).map((info) => [info.client, info]));
    showPeople();
  }
  if (history) showHistory(history.publications);
  page.empty.hidden = page.log.childElementCount > 0;
}

function showHistory(newestFirst) {
  // A screen reader shall not read out a hundred old messages.
  page.log.setAttribute("aria-live", "off");
  page.log.replaceChildren();
  room.offsets.clear();
  room.last = null;
  for (const publication of newestFirst.toReversed()) showMessage(publication);
  toEnd();
  setTimeout(() => page.log.setAttribute("aria-live", "polite"));
}

addEventListener("hashchange", () => enter(roomFromHash()));

// ---- who is here ----

function joined(info) {
  const back = room.absent.get(info.user);
  const fresh = !back && ![...room.people.values()].some((other) => other.user === info.user);
  clearTimeout(back);
  room.absent.delete(info.user);
  room.gone.delete(info.user);
  room.people.set(info.client, info);
  showPeople();
  if (fresh && info.user !== me.user) note(`${nameOf(info)} joined`);
}

function left(info) {
  const mine = room;
  if (!room.people.delete(info.client)) return;
  if ([...room.people.values()].some((other) => other.user === info.user)) return;
  room.absent.set(info.user, setTimeout(() => {
    mine.absent.delete(info.user);
    mine.gone.set(info.user, info);
    if (mine.gone.size > GONE_MAX) mine.gone.delete(mine.gone.keys().next().value);
    if (room !== mine) return;
    showPeople();
    note(`${nameOf(info)} left`);
  }, ABSENCE_MS));
}

/** The people here, by user, and those who left; both by name. */
function listed() {
  const byName = (a, b) => nameOf(a).localeCompare(nameOf(b));
  const users = new Map();
  for (const info of room.people.values()) users.set(info.user, info);
  return { here: [...users.values()].sort(byName), gone: [...room.gone.values()].sort(byName) };
}

function drawPeople() {
  const { here, gone } = listed();
  page.people.replaceChildren(...here.map((info) => personLine(info, "person")));
  page.gone.replaceChildren(...gone.map((info) => personLine(info, "gone-person")));
  page.goneTitle.hidden = gone.length === 0;
}

function personLine(info, kind) {
  const { state, text } = people.of(info.user);
  const avatar = dress(element("span", { class: "avatar", "aria-hidden": "true", "data-state": state }), info.user, nameOf(info));
  const who = element("span", { class: "who" }, element("span", { class: kind }, nameOf(info)));
  if (text && (text !== "online" || kind === "gone-person")) who.append(element("span", { class: "state" }, text));
  const line = element("li", {}, avatar, who);
  if (info.user === me.user) line.append(element("span", { class: "you" }, "you"));
  else if (mayWrite) line.append(writeButton(info));
  return line;
}

function writeButton(info) {
  const button = element("button", { class: "quiet write", type: "button", "aria-label": `Write to ${nameOf(info)}` }, "Write");
  button.addEventListener("click", () => letters.write(info.user, nameOf(info)));
  return button;
}

function showPeople() {
  const { here: users, gone } = listed();
  people.follow([...users, ...gone].map((info) => info.user));
  drawPeople();
  page.count.textContent = users.length || "–";
  counts.set(room.name, users.length);
  showRooms();
}

function nameOf(info) {
  return info?.conn_info?.name || info?.user || "Server";
}

function openPanel(open) {
  page.panel.classList.toggle("open", open);
  page.toggle.setAttribute("aria-expanded", String(open));
  (open ? page.closePanel : page.toggle).focus();
}
page.toggle.addEventListener("click", () => openPanel(!page.panel.classList.contains("open")));
page.closePanel.addEventListener("click", () => openPanel(false));
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && page.panel.classList.contains("open")) openPanel(false);
});

// ---- messages ----

function showMessage({ data, info, offset }) {
  if (offset && room.offsets.has(offset)) return;
  if (offset) room.offsets.add(offset);
  if (typeof data?.text !== "string") return;
  const time = Number.isFinite(data.time) ? data.time : Date.now();
  const own = Boolean(info) && info.user === me.user;
  dayLine(time);
  const author = info?.user ?? "";
  const follows = room.last?.author === author && room.last.name === nameOf(info) && time - room.last.time < GROUP_MS;
  const line = element("li", { class: `message${own ? " own" : ""}${follows ? " follows" : ""}` });
  if (!follows) {
    line.append(dress(element("span", { class: "avatar", "aria-hidden": "true" }), author, nameOf(info)),
      element("p", { class: "by" }, element("span", { class: "author" }, nameOf(info)), " ", clock(time)));
  }
  line.append(element("p", { class: "text" }, data.text));
  append(line, own);
  room.last = { author, name: nameOf(info), time, day: new Date(time).toDateString() };
}

function dayLine(time) {
  const day = new Date(time);
  if (room.last?.day === day.toDateString()) return;
  const today = day.toDateString() === new Date().toDateString();
  if (today && !room.last) return;
  append(element("li", { class: "day" }, today ? "Today" : day.toLocaleDateString(undefined, { weekday: "long", day: "numeric", month: "long" })));
  room.last = null;
}

function note(text) {
  append(element("li", { class: "note" }, text));
  room.last = room.last && { ...room.last, author: null };
}

function clock(time) {
  const date = new Date(time);
  const text = date.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
  return element("time", { datetime: date.toISOString() }, text);
}

function append(line, follow = false) {
  const nearEnd = atEnd();
  page.empty.hidden = true;
  page.log.append(line);
  while (page.log.childElementCount > LINES_MAX) page.log.firstElementChild.remove();
  if (follow || nearEnd) toEnd();
  else page.toEnd.hidden = false;
}

function atEnd() {
  return page.scroller.scrollHeight - page.scroller.scrollTop - page.scroller.clientHeight < NEAR_END_PX;
}

function toEnd() {
  page.scroller.scrollTop = page.scroller.scrollHeight;
  page.toEnd.hidden = true;
}
page.toEnd.addEventListener("click", toEnd);
page.scroller.addEventListener("scroll", () => { if (atEnd()) page.toEnd.hidden = true; }, { passive: true });

page.composer.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = page.text.value.trim();
  if (!text || !client.connected) return;
  page.text.value = "";
  fit();
  page.problem.textContent = "";
  try {
    await room.subscription.publish({ text, time: Date.now() });
  } catch (error) {
    page.problem.textContent = `Not sent: ${error.message}. Your text is back in the field.`;
    page.text.value ||= text;
    fit();
  }
});
page.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  page.composer.requestSubmit();
});
page.text.addEventListener("input", fit);

function fit() {
  page.text.style.height = "auto";
  page.text.style.height = `${page.text.scrollHeight}px`;
}

// ---- our name ----

page.me.addEventListener("click", () => {
  page.renameName.value = me.name;
  page.rename.showModal();
  page.renameName.select();
});
page.renameCancel.addEventListener("click", () => page.rename.close());
page.renameForm.addEventListener("submit", (event) => {
  event.preventDefault();
  page.rename.close();
  const name = page.renameName.value.trim();
  if (!name || name === me.name) return;
  me.name = name;
  client.reconnect();
});

// ---- small things ----

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Initials on one of twelve hues that the user id chooses. */
function dress(avatar, user, name) {
  let hash = 0;
  for (const letter of user) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  avatar.dataset.hue = String(hash % 12);
  avatar.textContent = name.split(/\s+/).map((word) => [...word][0] ?? "").slice(0, 2).join("").toUpperCase();
  return avatar;
}

showMe();
enter(roomFromHash());
client.connect();
