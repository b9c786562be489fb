"use strict";
// The status page: takes an event a second, draws the plots and fills in the tables.
// All text goes in as text, never as HTML.
(() => {
  const SPAN = 120; // seconds that the plots show
  const HEIGHT = 140, LEFT = 52, RIGHT = 8, TOP = 8, BOTTOM = 22;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const slowly = calm ? 5 : 0; // seconds between two pictures
  const byId = (id) => document.getElementById(id);

  let points = []; // the events of the last two minutes, without their lists
  let source = null;
  let paused = false;
  let drawn = 0;

  // --- building blocks ---

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function shape(tag, attributes = {}, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  }

  const round = (value, digits) => String(+value.toFixed(digits));
  const amount = (value) => (value < 10 ? round(value, 1) : Math.round(value).toLocaleString("en"));

  function time(seconds) {
    if (seconds === 0) return "0 ms";
    if (seconds < 0.01) return `${round(seconds * 1000, 2)} ms`;
    if (seconds < 1) return `${round(seconds * 1000, 0)} ms`;
    return `${round(seconds, seconds < 10 ? 2 : 0)} s`;
  }

  // --- plots ---

  const pools = (event) => Object.entries(event.pools);
  const limit = (pool) => pool.options.pool_size + pool.options.max_overflow;

  function plotsOf(event) {
    const percentiles = (name) => ["p50", "p90", "p99"].map((p) => [p, (e) => e[name].count ? e[name][p] : null]);
    return [
      ...pools(event).map(([alias, pool]) => ({
        title: `Pool ${alias}`,
        lines: [["in use", (e) => e.pools[alias]?.in_use], ["idle", (e) => e.pools[alias]?.idle]],
        limit: limit(pool),
        format: amount,
      })),
      {
        title: "Waiting for a connection",
        lines: pools(event).map(([alias]) => [alias, (e) => e.pools[alias]?.waiting]),
        format: amount,
      },
      {
        title: "Requests and queries a second",
        lines: [
          ["requests", (e) => e.rates.requests],
          ...Object.keys(event.rates.queries).map((alias) => [`queries to ${alias}`, (e) => e.rates.queries[alias]]),
        ],
        format: amount,
      },
      { title: "Latency of requests", lines: percentiles("latency"), format: time },
      { title: "Latency of queries", lines: percentiles("query_latency"), format: time },
      { title: "Lag of the loop", lines: [["p50", (e) => e.lag.p50], ["max", (e) => e.lag.max]], format: time },
    ].filter((plot) => plot.lines.length);
  }

  function plot(definition, now) {
    const id = `plot-${definition.title.replace(/\W+/g, "-")}`;
    let figure = byId(id);
    if (!figure) {
      figure = element("figure", { id }, element("figcaption", {}, element("h3"), element("ul")));
      figure.append(shape("svg", { role: "img", height: HEIGHT }));
      byId("plots").append(figure);
    }
    const values = definition.lines.map(([, read]) => read(points.at(-1)));
    const texts = definition.lines.map(([name], i) => [name, values[i] == null ? "–" : definition.format(values[i])]);
    if (definition.limit) texts.push(["limit", amount(definition.limit)]);
    figure.querySelector("h3").textContent = definition.title;
    figure.querySelector("ul").replaceChildren(
      ...texts.map(([name, text], i) =>
        element("li", {}, element("i", { class: name === "limit" ? "limit" : `line${i % 4}` }), `${name} `, element("b", {}, text))
      )
    );
    const picture = figure.querySelector("svg");
    picture.setAttribute("aria-label", `${definition.title}: ${texts.map((pair) => pair.join(" ")).join(", ")}`);
    picture.replaceChildren(...shapes(definition, now, picture.clientWidth || 320));
    return figure;
  }

  function shapes(definition, now, width) {
    const series = definition.lines.map(([, read]) => points.map((e) => [e.time, read(e)]));
    const highest = Math.max(definition.limit || 0, ...series.flat().map(([, value]) => value ?? 0));
    const top = ceiling(highest, definition.format === time ? 0.002 : 2);
    const x = (at) => LEFT + (1 - (now - at) / SPAN) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const made = [];
    for (const value of [0, top / 2, top]) {
      made.push(shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      made.push(shape("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, definition.format(value)));
    }
    made.push(shape("text", { x: LEFT, y: HEIGHT - 5 }, "2 minutes ago"));
    made.push(shape("text", { x: width - RIGHT, y: HEIGHT - 5, "text-anchor": "end" }, "now"));
    if (definition.limit) {
      made.push(shape("line", { class: "limit", x1: LEFT, x2: width - RIGHT, y1: y(definition.limit), y2: y(definition.limit) }));
    }
    series.forEach((line, i) => {
      let path = "", before = null;
      for (const [at, value] of line) {
        if (value == null) { before = null; continue; }
        const pen = before !== null && at - before < 2.5 ? "L" : "M";
        path += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
        if (pen === "M") path += "h0.1"; // a single point shows as a dot
        before = at;
      }
      made.push(shape("path", { class: `line${i % 4}`, d: path }));
    });
    return made;
  }

  function ceiling(value, least) {
    const power = 10 ** Math.floor(Math.log10(Math.max(value, least)));
    return Math.max(least, [1, 2, 4, 6, 8, 10].find((step) => step * power >= value * 0.999) * power);
  }

  // --- tables ---

  function table(id, columns, rows, none) {
    if (!rows.length) return byId(id).replaceChildren(element("p", { class: "note" }, none));
    const titles = columns.map(([title]) => element("th", { role: "columnheader", scope: "col" }, title));
    const body = rows.map((row) =>
      element("tr", { role: "row" }, ...columns.map(([title, kind], i) =>
        element("td", { role: "cell", class: kind, "data-title": title }, ...[row[i]].flat())))
    );
    byId(id).replaceChildren(
      element("table", { role: "table", "aria-labelledby": `${id}-title` },
        element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...titles)),
        element("tbody", { role: "rowgroup" }, ...body))
    );
  }

  function tables(event) {
    table("slowest",
      [["Took", "number"], ["Query", "code"], ["Database", ""], ["Sent by", ""], ["At", ""]],
      event.slowest.map((q) => [time(q.seconds), q.sql, q.alias, q.scope ?? "no greenlet", new Date(q.ended * 1000).toLocaleTimeString()]),
      "None yet. Queries are recorded while this page is open.");
    table("routes",
      [["Route", "code"], ["Method", ""], ["Status", ""], ["Requests", "number"], ["p50", "number"], ["p90", "number"], ["p99", "number"], ["Max", "number"]],
      event.routes.map(({ route, method, status, seconds: s }) =>
        [route, method, String(status), s.count.toLocaleString("en"), time(s.p50), time(s.p90), time(s.p99), time(s.max)]),
      "None yet. Requests are recorded while this page is open.");
    const row = (title, read) => [title, ...pools(event).map(([, pool]) => read(pool))];
    const count = (name) => (pool) => pool[name].toLocaleString("en");
    const reasons = (pool) => Object.entries(pool.closed).filter(([, n]) => n).map(([why, n]) => `${why} ${n}`).join(", ");
    const timing = (name) => (pool) => `${time(pool[name].p50)}, ${time(pool[name].p99)}`;
    table("pools",
      [["Pool", ""], ...pools(event).map(([alias]) => [alias, "number"])],
      pools(event).length ? [
        row("Limit", (pool) => amount(limit(pool))),
        row("In use", count("in_use")), row("Idle", count("idle")), row("Waiting", count("waiting")),
        row("Longest wait now", (pool) => time(pool.longest_wait)), row("Longest hold now", (pool) => time(pool.longest_hold)),
        row("Wait, p50 and p99", timing("wait")), row("Hold, p50 and p99", timing("hold")),
        row("Lent", (pool) => pool.wait.count.toLocaleString("en")),
        row("Opened", count("opened")), row("Openings failed", count("failed")),
        row("Closed", (pool) => reasons(pool) || "0"),
        row("Timeouts", count("timeouts")), row("Refused", count("refused")),
        row("Resets", count("resets")), row("Kills", count("kills")),
      ] : [],
      "No pool yet: it is made for the first query.");
  }

  function tiles(event) {
    const sum = (read) => pools(event).reduce((total, [, pool]) => total + read(pool), 0);
    const queries = Object.values(event.rates.queries).reduce((a, b) => a + b, 0);
    const some = event.latency.count > 0;
    const shown = {
      "Running requests": amount(event.requests),
      ...(event.queued ? { "Queued requests": amount(event.queued) } : {}),
      "Requests a second": amount(event.rates.requests),
      "Latency, p50": some ? time(event.latency.p50) : "–",
      "Latency, p99": some ? time(event.latency.p99) : "–",
      "Queries a second": amount(queries),
      "Connections in use": `${sum((pool) => pool.in_use)} of ${sum(limit)}`,
      "Waiting for one": amount(sum((pool) => pool.waiting)),
      "Lag of the loop": time(event.lag.max),
      "Greenlets": amount(event.greenlets),
    };
    byId("now").replaceChildren(
      ...Object.entries(shown).map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text)))
    );
  }

  // --- running requests: an entry stays in place, and open, while requests stand there ---

  const entries = new Map();

  function running(event) {
    const box = byId("running");
    const seen = new Set();
    box.querySelector(":scope > .note")?.remove();
    for (const request of event.running) {
      const where = request.stack.map((line) => `${line.path}, line ${line.line}, in ${line.function}\n    ${line.source}`);
      const key = [request.name, request.waits_for, request.sql, ...where].join("\n");
      let entry = entries.get(key);
      if (!entry) {
        entry = element("details", {}, element("summary"), element("p", { class: "note" }), element("pre", { tabindex: "0" }));
        entry.querySelector("pre").textContent = where.join("\n") || "No frame of yours.";
        entry.querySelector("p").textContent = request.handler + (request.sql ? `: ${request.sql}` : "");
        entries.set(key, entry);
        box.append(entry);
      }
      seen.add(key);
      const many = request.count > 1 ? `${request.count} × ` : "";
      const upTo = request.count > 1 ? "up to " : "";
      const age = request.seconds === null ? "" : ` for ${upTo}${time(request.seconds)},`; // of a websocket
      entry.querySelector("summary").replaceChildren(
        element("b", {}, many + request.name), `${age} waits for ${request.waits_for}`);
    }
    for (const [key, entry] of entries) {
      if (!seen.has(key)) { entry.remove(); entries.delete(key); }
    }
    if (!entries.size) box.append(element("p", { class: "note" }, "None."));
  }

  // --- events ---

  function take(event) {
    if (byId("pid").textContent !== String(event.pid)) {
      points = []; // another process has answered: its figures are others
      byId("pid").textContent = event.pid;
      document.title = `greentor, process ${event.pid}`;
    }
    const { slowest, routes, running: _, ...point } = event;
    points.push(point);
    points = points.filter((each) => each.time > event.time - SPAN);
    if (event.time - drawn < slowly) return;
    drawn = event.time;
    tiles(event);
    const figures = plotsOf(event).map((each) => plot(each, event.time));
    const shown = byId("plots").children; // moved only if there is another pool than before
    if (figures.length !== shown.length || figures.some((each, i) => each !== shown[i])) byId("plots").replaceChildren(...figures);
    running(event);
    tables(event);
  }

  function say(text, kind) {
    const state = byId("state");
    if (state.textContent !== text) state.textContent = text; // said once by a screen reader
    state.className = kind;
  }

  function connect() {
    source?.close();
    source = null;
    if (paused) return say("paused", "off");
    if (document.hidden) return;
    source = new EventSource(location.href);
    source.onopen = () => say("live", "on");
    source.onmessage = (message) => take(JSON.parse(message.data));
    source.onerror = () => {
      say("connection lost, trying again", "off");
      if (source?.readyState === EventSource.CLOSED) setTimeout(connect, 3000); // refused: it would not try again
    };
  }

  byId("pause").addEventListener("click", () => {
    paused = !paused;
    byId("pause").setAttribute("aria-pressed", paused);
    connect();
  });
  document.addEventListener("visibilitychange", connect);
  connect();
})();
