// The dashboard uses the API like any other client. Everything that comes from there is put into the page as text,
// never as HTML.
"use strict";

const API = "/api/v1";
const LIST_EVERY_MS = 5000;
const DEVICE_EVERY_MS = 10000;
const PAGE_SIZE = 100;
const main = document.getElementById("main");
const STATUS_NAMES = {
  online: "Online", offline: "Offline", updating: "Updating", error: "Error",
  maintenance: "Maintenance", awaiting_approval: "Awaiting approval",
};

// --- Elements ---

function element(tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value") made.value = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  append(made, children);
  return made;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  append(made, children);
  return made;
}

function append(parent, children) {
  for (const child of children.flat()) {
    if (child === undefined || child === null || child === false) continue;
    parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

function show(...nodes) {
  main.replaceChildren(...nodes);
}

function notice(text) {
  const box = document.getElementById("notice");
  box.textContent = text || "";
  box.hidden = !text;
}

// --- Words and numbers ---

function number(value, digits, unit) {
  return typeof value === "number" ? `${value.toFixed(digits)}${unit}` : "–";
}

function ago(time) {
  if (!time) return "never";
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} days ago`;
}

function duration(seconds) {
  if (typeof seconds !== "number") return "–";
  const days = Math.floor(seconds / 86400);
  const hours = Math.floor((seconds % 86400) / 3600);
  const minutes = Math.floor((seconds % 3600) / 60);
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min`;
}

function clock(time) {
  return new Date(time).toLocaleString();
}

// A reason is a fixed word, and sometimes a colon and more.
function word(reason) {
  return reason.split(":")[0].replaceAll("_", " ");
}

function stands(lock) {
  return Boolean(lock) && Date.parse(lock.from) <= Date.now() && Date.now() < Date.parse(lock.until);
}

// --- Session: tokens live as long as the tab ---

const session = {
  get access() { return sessionStorage.getItem("access"); },
  get refresh() { return sessionStorage.getItem("refresh"); },
  keep(tokens) {
    sessionStorage.setItem("access", tokens.access_token);
    sessionStorage.setItem("refresh", tokens.refresh_token);
  },
  end() {
    sessionStorage.clear();
    account = null;
  },
};
let account = null;
let renewing = null;

class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function request(method, path, body, token) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(API + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new ApiError(0, "The server cannot be reached. Trying again.");
  }
  const text = await response.text();
  let answer = null;
  try { answer = text ? JSON.parse(text) : null; } catch { /* not JSON: told below by its status */ }
  if (!response.ok) {
    const fields = answer && answer.errors ? ` (${answer.errors.map((e) => `${e.field}: ${e.message}`).join("; ")})` : "";
    throw new ApiError(response.status, ((answer && answer.detail) || `The server answered ${response.status}.`) + fields);
  }
  return answer;
}

function renew() {
  // One renewal at a time: a refresh token works once.
  renewing = renewing || request("POST", "/auth/refresh", { refresh_token: session.refresh })
    .then((tokens) => session.keep(tokens))
    .finally(() => { renewing = null; });
  return renewing;
}

async function api(method, path, body) {
  try {
    return await request(method, path, body, session.access);
  } catch (error) {
    if (error.status !== 401 || !session.refresh) throw error;
    await renew();
    return request(method, path, body, session.access);
  }
}

// --- Pages: each gives a function that loads and draws; it runs again and again until another page comes ---

let page = { timer: 0, number: 0 };

function start(draw, everyMs) {
  clearTimeout(page.timer);
  const own = { timer: 0, number: page.number + 1 };
  page = own;
  const current = () => page === own;
  const turn = async () => {
    clearTimeout(own.timer);
    try {
      await draw(current);
      if (current()) {
        notice("");
        document.getElementById("freshness").textContent = `updated ${new Date().toLocaleTimeString()}`;
      }
    } catch (error) {
      if (!current()) return;
      if (error.status === 401) return signOut("Please sign in again.");
      notice(error.message);
    }
    if (current()) own.timer = setTimeout(turn, document.hidden ? everyMs * 6 : everyMs);
  };
  turn();
  return turn;
}

// What follows loads nothing by itself.
function leave() {
  clearTimeout(page.timer);
  page = { timer: null, number: page.number + 1 };
  document.getElementById("freshness").textContent = "";
}

function signOut(message) {
  session.end();
  leave();
  document.getElementById("sign-out").hidden = true;
  document.getElementById("account").textContent = "";
  notice(message);
  loginPage();
}

function loginPage() {
  const email = element("input", { type: "email", name: "email", autocomplete: "username", required: true, maxlength: 254 });
  const password = element("input", { type: "password", name: "password", autocomplete: "current-password", required: true, maxlength: 256 });
  const button = element("button", { type: "submit" }, "Sign in");
  const form = element("form", {
    class: "card narrow stack",
    onsubmit: async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        session.keep(await request("POST", "/auth/login", { email: email.value, password: password.value }));
        notice("");
        await enter();
      } catch (error) {
        notice(error.message);
        password.value = "";
        password.focus();
      }
      button.disabled = false;
    },
  }, element("h1", {}, "Sign in"), element("label", {}, "E-mail address", email), element("label", {}, "Password", password), button);
  show(form);
  email.focus();
}

// One's own password. The address is there for password managers. All sessions end with the old password: the new one begins
// another at once.
function passwordPage(why) {
  const email = element("input", { type: "email", name: "email", autocomplete: "username", value: account.email, readonly: true, hidden: true });
  const field = (autocomplete) => element("input", { type: "password", autocomplete, required: true, maxlength: 256 });
  const [old, fresh, again] = [field("current-password"), field("new-password"), field("new-password")];
  const button = element("button", { type: "submit" }, "Change password");
  const form = element("form", {
    class: "card narrow stack",
    onsubmit: async (event) => {
      event.preventDefault();
      if (fresh.value !== again.value) {
        notice("The two new passwords differ.");
        again.focus();
        return;
      }
      button.disabled = true;
      try {
        await api("POST", "/auth/password", { old: old.value, new: fresh.value });
        session.keep(await request("POST", "/auth/login", { email: account.email, password: fresh.value }));
        location.hash = "#/";
        await enter();
      } catch (error) {
        if (error.status === 401) return signOut("Please sign in again.");
        notice(error.message);
      }
      button.disabled = false;
    },
  }, element("h1", {}, "Choose a password"), why && element("p", {}, why), email, element("label", {}, "Present password", old),
    element("label", {}, "New password", fresh), element("label", {}, "The new one again", again), button);
  leave();
  show(form);
  old.focus();
}

// --- The list ---

const list = { status: "", text: "", page: 1 };

function badge(status) {
  const known = Object.hasOwn(STATUS_NAMES, status);
  return element("span", { class: known ? `badge ${status}` : "badge" }, known ? STATUS_NAMES[status] : status);
}

function activity(device) {
  const badges = [];
  if (device.recording_active) badges.push(element("span", { class: "badge recording" }, "Recording"));
  else if (device.live === true) badges.push(element("span", { class: "badge recording" }, "Live"));
  if (device.mixer_active) badges.push(element("span", { class: "badge online" }, "Mixer"));
  if (stands(device.show_lock)) badges.push(element("span", { class: "badge maintenance", title: device.show_lock.reason }, "Locked"));
  if (device.held_reason) badges.push(element("span", { class: "badge maintenance", title: device.held_reason }, `Held: ${word(device.held_reason)}`));
  else if (device.pending_commands) badges.push(element("span", { class: "badge" }, `${device.pending_commands} open`));
  if (badges.length) return element("span", { class: "badges" }, badges);
  // Only a device that says so is idle: nobody should take silence for the end of a show.
  const idle = device.live === false && device.status === "online";
  return element("span", { class: "quiet" }, idle ? "idle" : "unknown");
}

function gauge(value, highFrom) {
  if (typeof value !== "number") return "–";
  const width = Math.max(0, Math.min(100, value));
  return element("span", { class: "gauge" }, element("span", { class: "number" }, number(value, 0, " %")),
    svg("svg", { viewBox: "0 0 100 5", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: "track", width: 100, height: 5, rx: 2 }),
      svg("rect", { class: value >= highFrom ? "fill high" : "fill", width, height: 5, rx: 2 })));
}

function listPage() {
  const tiles = element("div", { class: "tiles" });
  const search = element("input", {
    type: "search", class: "search", placeholder: "Search id, name, place, serial number", maxlength: 100,
    "aria-label": "Search", value: list.text,
  });
  const body = element("tbody", {});
  const empty = element("p", { class: "empty", hidden: true });
  const pager = element("div", { class: "row", hidden: true });
  const headings = ["Status", "Device", "Last heartbeat", "Version", "CPU", "Memory", "Disk free", "Temp.", "Activity", "Link"];
  const table = element("table", { class: "devices" },
    element("thead", {}, element("tr", {}, headings.map((text) => element("th", { scope: "col" }, text)))), body);
  show(element("div", { class: "stack" }, tiles, element("div", { class: "row" }, search),
    element("section", { class: "card flush" }, element("div", { class: "scroll" }, table), empty), pager));

  const draw = async (current) => {
    const query = new URLSearchParams({ page: list.page, page_size: PAGE_SIZE });
    if (list.status) query.set("status", list.status);
    if (list.text) query.set("q", list.text);
    const count = (status) => api("GET", `/devices?page_size=1${status ? `&status=${status}` : ""}`).then((answer) => answer.total);
    const shown = ["", "online", "offline", "maintenance", "awaiting_approval"];
    const [answer, ...totals] = await Promise.all([api("GET", `/devices?${query}`), ...shown.map(count)]);
    if (!current()) return;
    tiles.replaceChildren(...shown.map((status, n) => element("button", {
      type: "button", class: "tile", "aria-pressed": String(list.status === status),
      onclick: () => { list.status = status; list.page = 1; again(); },
    }, element("strong", {}, totals[n]), element("span", { class: "quiet" }, status ? STATUS_NAMES[status] : "All devices"))));
    body.replaceChildren(...answer.items.map(listRow));
    empty.hidden = answer.items.length > 0;
    empty.textContent = list.status || list.text
      ? "No device fits." : "No device is registered yet. Make an enrolment key on the server: fleetd enrollment-key add";
    drawPager(pager, answer);
  };
  const again = start(draw, LIST_EVERY_MS);
  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { list.text = search.value.trim(); list.page = 1; again(); }, 250);
  });
  const drawPager = (box, answer) => {
    const step = (label, by, possible) => element("button", {
      type: "button", class: "plain", disabled: !possible, onclick: () => { list.page += by; again(); },
    }, label);
    box.hidden = answer.page === 1 && !answer.has_more;
    box.replaceChildren(step("Previous", -1, answer.page > 1),
      element("span", { class: "quiet" }, `page ${answer.page} of ${Math.max(1, Math.ceil(answer.total / answer.page_size))}`),
      step("Next", 1, answer.has_more));
  };
}

function listRow(device) {
  const target = `#/devices/${encodeURIComponent(device.device_id)}`;
  const cell = (label, content, wide) => element("td", { "data-label": label || undefined, class: wide ? "wide" : undefined }, content);
  return element("tr", { class: "link", onclick: (event) => { if (!event.target.closest("a")) location.hash = target; } },
    cell("", badge(device.status)),
    cell("", [element("a", { class: "name", href: target }, device.name), element("div", { class: "quiet mono" }, device.device_id)]),
    cell("Last heartbeat", element("span", { class: "number", title: device.last_heartbeat ? clock(device.last_heartbeat) : "" }, ago(device.last_heartbeat))),
    cell("Version", element("span", { class: "mono" }, device.current_version || "–")),
    cell("CPU", gauge(device.cpu_percent, 90)),
    cell("Memory", gauge(device.mem_percent, 90)),
    cell("Disk free", element("span", { class: "number" }, number(device.disk_free_gb, 1, " GB"))),
    cell("Temperature", element("span", { class: "number" }, number(device.temperature_c, 0, " °C"))),
    cell("Activity", activity(device)),
    cell("Link", element("span", { class: "mono" }, device.transport || "–")));
}

// --- One device ---

const SPANS = [[1, "1 hour"], [24, "24 hours"], [168, "7 days"], [720, "30 days"]];
let spanHours = 24;

function devicePage(id) {
  const path = `/devices/${encodeURIComponent(id)}`;
  const head = element("div", { class: "row" });
  const facts = element("dl", { class: "facts" });
  const charts = element("div", { class: "charts" });
  const totals = element("p", { class: "quiet" });
  const beats = element("tbody", {});
  const none = element("p", { class: "empty", hidden: true }, "No heartbeat has arrived yet.");
  const spans = element("div", { class: "row" });
  const commands = commandSection(path, () => again());
  const columns = ["Received", "Taken", "Number", "Version", "CPU", "Memory", "Disk free", "Temp.", "Activity", "Errors"];
  show(element("div", { class: "stack" }, element("div", {}, element("a", { href: "#/" }, "← All devices")), head,
    element("section", { class: "card" }, facts), commands.section,
    element("section", { class: "stack" }, element("div", { class: "row" }, element("h2", {}, "Measurements"), element("span", { class: "grow" }), spans), charts, totals),
    element("section", { class: "card" }, element("h2", {}, "Recent heartbeats"), element("div", { class: "scroll" },
      element("table", {}, element("thead", {}, element("tr", {}, columns.map((text) => element("th", { scope: "col" }, text)))), beats)), none)));

  const draw = async (current) => {
    const [device, metrics, recent, sent] = await Promise.all([
      api("GET", path), api("GET", `${path}/metrics?hours=${spanHours}`), api("GET", `${path}/heartbeats?page_size=20`),
      api("GET", `${path}/commands?page_size=10`),
    ]);
    if (!current()) return;
    document.title = `${device.name} · R58 Fleet`;
    head.replaceChildren(element("h1", {}, device.name), badge(device.status), activity(device), element("span", { class: "grow" }),
      ...(device.status === "awaiting_approval" && account && account.role === "admin"
        ? [element("button", { type: "button", onclick: () => act(`${path}/approve`) }, "Approve")] : []));
    facts.replaceChildren(...[
      ["Id", device.device_id], ["Last heartbeat", ago(device.last_heartbeat)], ["Version", device.current_version],
      ["Target version", device.target_version], ["Agent", device.agent_version], ["Link", device.transport],
      ["Address", device.ip_address], ["Up for", duration(device.uptime_seconds)], ["Place", device.location],
      ["Tags", device.tags.join(", ")], ["Serial number", device.serial_number], ["Architecture", device.arch],
      ["CPU", number(device.cpu_percent, 1, " %")], ["Memory", number(device.mem_percent, 1, " %")],
      ["Disk free", number(device.disk_free_gb, 1, " GB")], ["Temperature", number(device.temperature_c, 1, " °C")],
      ["Open commands", device.pending_commands], ["Held because", device.held_reason],
      ["Show lock", device.show_lock && `${device.show_lock.reason}, ${clock(device.show_lock.from)} to ${clock(device.show_lock.until)}`],
      ["Waiting records", device.outbox_depth], ["Registered", clock(device.created_at)],
    ].map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value === undefined || value === "" ? "–" : value))));
    spans.replaceChildren(...SPANS.map(([hours, label]) => element("button", {
      type: "button", class: "plain", "aria-pressed": String(hours === spanHours), onclick: () => { spanHours = hours; again(); },
    }, label)));
    charts.replaceChildren(chart(metrics, "cpu_percent", "CPU", "%", 0, 100), chart(metrics, "mem_percent", "Memory", "%", 0, 100),
      chart(metrics, "temperature_c", "Temperature", "°C"), chart(metrics, "disk_free_gb", "Disk free", "GB", 0));
    totals.textContent = `Recording ${duration(metrics.recording_minutes * 60)}, mixer ${duration(metrics.mixer_minutes * 60)} in this time.`;
    commands.draw(sent.items);
    beats.replaceChildren(...recent.items.map(beatRow));
    none.hidden = recent.items.length > 0;
  };
  const again = start(draw, DEVICE_EVERY_MS);
  const act = async (path) => {
    try { await api("POST", path); } catch (error) { notice(error.message); }
    again();
  };
}

// --- Commands of one device ---

const OPEN_STATES = ["pending", "sent", "acked", "held", "running"];
const STATE_CLASSES = {
  completed: "online", held: "maintenance", running: "updating",
  failed: "error", timed_out: "error", indeterminate: "error", rejected: "error",
};

function maySend() {
  return Boolean(account) && (account.role === "operator" || account.role === "admin");
}

// A name for what is about to be sent: after a lost answer the same request again is the same command.
function newRef() {
  return "dashboard-" + Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function commandSection(path, again) {
  const rows = element("tbody", {});
  const none = element("p", { class: "empty", hidden: true }, "No command has been sent yet.");
  const columns = ["Created", "Command", "Status", "What is known", "By", ""];
  const table = element("table", {}, element("thead", {}, element("tr", {}, columns.map((text) => element("th", { scope: "col" }, text)))), rows);
  const section = element("section", { class: "card" }, element("div", { class: "row" }, element("h2", {}, "Commands"),
    element("span", { class: "grow" }), maySend() && commandForm(path, again)), element("div", { class: "scroll" }, table), none);
  const cancel = async (command, button) => {
    button.disabled = true;
    try { await api("POST", `/commands/${encodeURIComponent(command.id)}/cancel`); } catch (error) { notice(error.message); return; }
    again();
  };
  const draw = (commands) => {
    rows.replaceChildren(...commands.map((command) => commandRow(command, cancel)));
    none.hidden = commands.length > 0;
  };
  return { section, draw };
}

function commandForm(path, again) {
  const service = element("input", { class: "short", maxlength: 255, placeholder: "service", value: "r58-api", "aria-label": "Service", hidden: true });
  const kind = element("select", { class: "short", "aria-label": "Command" },
    element("option", { value: "ping" }, "Ping"), element("option", { value: "restart_service" }, "Restart service"));
  const button = element("button", { type: "submit" }, "Send");
  let ref = newRef();
  const changed = () => { ref = newRef(); service.hidden = kind.value !== "restart_service"; };
  kind.addEventListener("change", changed);
  service.addEventListener("input", changed);
  const send = async (event) => {
    event.preventDefault();
    const payload = kind.value === "restart_service" ? { service: service.value.trim() } : {};
    button.disabled = true;
    try {
      await api("POST", `${path}/commands`, { type: kind.value, payload, ref });
      ref = newRef();
      again();
    } catch (error) {
      notice(error.message);
    }
    button.disabled = false;
  };
  return element("form", { class: "row", onsubmit: send }, kind, service, button);
}

function commandRow(command, cancel) {
  const open = OPEN_STATES.includes(command.status);
  const kind = Object.hasOwn(STATE_CLASSES, command.status) ? STATE_CLASSES[command.status] : "";
  const known = [
    command.held_reason, command.reason, command.error,
    typeof command.progress_percent === "number" && open ? `${command.progress_percent} %` : null,
    command.inferred ? "the device may still say otherwise" : null,
    open && command.cancel_requested_at ? "asked to cancel" : null,
  ].filter(Boolean).join("; ");
  const cell = (content, kind) => element("td", { class: kind }, content);
  const detail = Object.keys(command.payload || {}).length ? JSON.stringify(command.payload) : "";
  const button = open && maySend() && !command.cancel_requested_at
    && element("button", { type: "button", class: "plain", onclick: (event) => cancel(command, event.currentTarget) }, "Cancel");
  return element("tr", {}, cell(clock(command.created_at), "number"),
    cell([command.type, element("div", { class: "quiet mono" }, detail.length > 80 ? `${detail.slice(0, 80)}…` : detail)]),
    cell(element("span", { class: `badge ${kind}` }, command.status.replaceAll("_", " "))),
    cell(known || "–"), cell(command.created_by, "quiet"), cell([button]));
}

function beatRow(beat) {
  const metrics = beat.metrics || {};
  const cell = (content, kind) => element("td", { class: kind }, content);
  return element("tr", {}, cell(clock(beat.received_at), "number"), cell(clock(beat.taken_at || beat.ts), "number"),
    cell(beat.seq === undefined ? "–" : beat.seq, "number"), cell(beat.version || "–", "mono"),
    cell(number(metrics.cpu_percent, 1, " %"), "number"), cell(number(metrics.mem_percent, 1, " %"), "number"),
    cell(number(metrics.disk_free_gb, 1, " GB"), "number"), cell(number(metrics.temperature_c, 1, " °C"), "number"),
    cell(activity({ ...beat.status, live: beat.live, status: "online" })), cell((beat.errors || []).join("; ") || "–"));
}

function chart(metrics, key, title, unit, low, high) {
  const width = 480, height = 170, left = 44, right = 8, top = 10, bottom = 22;
  const from = Date.parse(metrics.from), to = Date.parse(metrics.to);
  const points = metrics.points.filter((point) => point[key]).map((point) => ({ at: Date.parse(point.ts), ...point[key] }));
  const card = element("section", { class: "card chart" });
  const last = points.length ? number(points[points.length - 1].avg, 1, ` ${unit}`) : "–";
  card.append(element("div", { class: "row" }, element("h2", {}, title), element("span", { class: "grow" }), element("span", { class: "quiet" }, last)));
  if (!points.length) {
    card.append(element("p", { class: "empty" }, "Nothing measured in this time."));
    return card;
  }
  let bottomValue = low === undefined ? Math.min(...points.map((point) => point.min)) : low;
  let topValue = high === undefined ? Math.max(...points.map((point) => point.max)) : high;
  if (topValue - bottomValue < 1) { topValue += 1; if (low === undefined) bottomValue -= 1; }
  if (high === undefined) topValue += (topValue - bottomValue) * 0.1;
  const x = (at) => (left + (Math.max(from, Math.min(to, at)) - from) / (to - from) * (width - left - right)).toFixed(1);
  const y = (value) => (top + (topValue - value) / (topValue - bottomValue) * (height - top - bottom)).toFixed(1);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}, last ${last}` });
  for (const part of [0, 0.5, 1]) {
    const value = bottomValue + (topValue - bottomValue) * part;
    picture.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 6, y: Number(y(value)) + 4, "text-anchor": "end" }, value.toFixed(topValue - bottomValue < 10 ? 1 : 0)));
  }
  const clock = { hour: "2-digit", minute: "2-digit" };
  const short = (at) => new Date(at).toLocaleString([], to - from > 2 * 86400000
    ? { day: "numeric", month: "short" } : to - from > 12 * 3600000 ? { weekday: "short", ...clock } : clock);
  picture.append(svg("text", { x: left, y: height - 6 }, short(from)), svg("text", { x: width - right, y: height - 6, "text-anchor": "end" }, short(to)));
  for (const run of runs(points, metrics.step_seconds * 2500)) {
    if (run.length === 1) {
      picture.append(svg("circle", { class: "dot", cx: x(run[0].at), cy: y(run[0].avg), r: 2.5 }));
      continue;
    }
    const upper = run.map((point) => `${x(point.at)},${y(point.max)}`);
    const lower = run.map((point) => `${x(point.at)},${y(point.min)}`).reverse();
    picture.append(svg("polygon", { class: "band", points: upper.concat(lower).join(" ") }),
      svg("polyline", { class: "curve", points: run.map((point) => `${x(point.at)},${y(point.avg)}`).join(" ") }));
  }
  card.append(picture);
  return card;
}

// Points with gaps in between are drawn apart: a line across would claim what nobody measured.
function runs(points, gapMs) {
  const all = [];
  for (const point of points) {
    const run = all[all.length - 1];
    if (run && point.at - run[run.length - 1].at <= gapMs) run.push(point);
    else all.push([point]);
  }
  return all;
}

// --- Ways in ---

function route() {
  if (!account) return;
  notice("");
  if (account.must_change_password || location.hash === "#/password") {
    passwordPage(account.must_change_password && "Somebody else knows this password, or it lies in a file. Nothing else can be done before it is changed.");
    return;
  }
  const found = /^#\/devices\/([^/]+)$/.exec(location.hash);
  let id = null;
  try { id = found && decodeURIComponent(found[1]); } catch { /* a broken link leads to the list */ }
  document.title = "R58 Fleet";
  if (id) devicePage(id);
  else listPage();
}

async function enter() {
  account = await api("GET", "/auth/me");
  document.getElementById("account").replaceChildren(
    element("a", { href: "#/password", title: "Change your password" }, account.email), ` · ${account.org} · ${account.role}`);
  document.getElementById("sign-out").hidden = false;
  route();
}

document.getElementById("sign-out").addEventListener("click", () => signOut(""));
window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => { if (!document.hidden && account && page.timer !== null) route(); });
if (session.access) enter().catch((error) => { if (error.status === 401) signOut(""); else { notice(error.message); setTimeout(() => location.reload(), 5000); } });
else loginPage();
