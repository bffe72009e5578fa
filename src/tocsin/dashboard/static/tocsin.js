// Everything here improves pages that are right without it: theme, times in the reader's zone,
// keyboard, copy buttons, crosshair and brushing, new rows that wait, quiet refreshing.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const stored = (() => {
    try { return localStorage.getItem("tocsin-theme"); } catch { return null; }
  })();
  // Before the first paint, so that a chosen theme never flashes.
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;

  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const say = (text) => {
    const place = document.getElementById("said");
    if (place) place.textContent = text;
  };

  // -- theme --
  const showTheme = () => {
    const current = root.dataset.theme || "system";
    for (const button of all("[data-theme-set]")) {
      button.setAttribute("aria-pressed", String(button.dataset.themeSet === current));
    }
  };
  const setTheme = (theme) => {
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    try { localStorage.setItem("tocsin-theme", theme); } catch { /* private mode */ }
    showTheme();
  };

  // -- times in the reader's zone --
  const pad = (n, size = 2) => String(n).padStart(size, "0");
  const exact = (at) =>
    `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ` +
    `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}.${pad(at.getMilliseconds(), 3)}`;
  const zone = (at) => {
    const minutes = -at.getTimezoneOffset();
    const size = Math.abs(minutes);
    const rest = size % 60 ? `:${pad(size % 60)}` : "";
    return minutes ? `UTC${minutes < 0 ? "−" : "+"}${Math.floor(size / 60)}${rest}` : "UTC";
  };
  const coarse = (seconds) => {
    for (const [size, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= size) return `${Math.floor(seconds / size)} ${name}`;
    }
    return `${Math.floor(seconds)} s`;
  };
  const ago = (us) => {
    const past = Date.now() / 1000 - us / 1e6;
    if (past < -60) return `in ${coarse(-past)}`;
    if (past < 5) return "just now";
    return past < 30 * 86400 ? `${coarse(past)} ago` : null;
  };
  const localTimes = (from = document) => {
    for (const time of all("time[data-us]", from)) {
      const us = Number(time.dataset.us);
      time.title = `${exact(new Date(us / 1000))} ${zone(new Date(us / 1000))}`;
      const text = "exact" in time.dataset ? exact(new Date(us / 1000)).slice(0, 16) : ago(us);
      if (text && text !== time.textContent) time.textContent = text;
    }
    for (const note of all(".zone", from)) {
      const [name, offset] = [Intl.DateTimeFormat().resolvedOptions().timeZone, zone(new Date())];
      note.textContent = name === offset ? `Times in ${name}.` : `Times in ${name}, ${offset}.`;
    }
  };

  // -- charts --
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10080, 20160, 40320, 131040, 524160];
  const NS = "http://www.w3.org/2000/svg";

  // The server's ticks are round in UTC; these are round where the reader is.
  const localTicks = (figure, start, end) => {
    const group = figure.querySelector("g.x");
    const span = (end - start) / 6e7;
    const minutes = STEPS.find((step) => span / step <= 8) || 524160;
    const first = new Date(start / 1000);
    const at = new Date(first.getFullYear(), first.getMonth(), first.getDate());
    const height = group.firstElementChild?.getAttribute("y");
    if (!height) return;
    const ticks = [];
    for (let i = 0; i < 4000 && ticks.length < 9; i++) {
      const us = at.getTime() * 1000;
      if (us > end) break;
      if (us >= start) ticks.push(new Date(at));
      if (minutes >= 1440) at.setDate(at.getDate() + minutes / 1440);
      else at.setMinutes(at.getMinutes() + minutes);
    }
    group.replaceChildren(...ticks.map((tick, i) => {
      const pos = (tick.getTime() * 1000 - start) / (end - start);
      const text = document.createElementNS(NS, "text");
      const midnight = tick.getHours() === 0 && tick.getMinutes() === 0;
      text.setAttribute("class", `tick${i % 2 ? " odd" : ""}${pos > 0.97 ? " last" : ""}`);
      text.setAttribute("x", `${(100 * pos).toFixed(2)}%`);
      text.setAttribute("y", height);
      text.textContent = minutes >= 131040 ? `${MONTHS[tick.getMonth()]} ${tick.getFullYear()}`
        : minutes >= 1440 || midnight ? `${tick.getDate()} ${MONTHS[tick.getMonth()]}`
        : `${pad(tick.getHours())}:${pad(tick.getMinutes())}`;
      return text;
    }));
  };

  const isoOf = (us) => new Date(Math.round(us / 1e6) * 1000).toISOString().replace(".000Z", "Z");
  const goTo = (href, changes) => {
    const url = new URL(href, location.href);
    for (const [name, value] of Object.entries(changes)) {
      if (value === null) url.searchParams.delete(name);
      else url.searchParams.set(name, value);
    }
    location.assign(url);
  };

  const chart = (figure) => {
    const plot = figure.querySelector("svg.plot");
    const data = figure.dataset;
    const points = JSON.parse(data.points || "[]");
    if (!plot || !points.length) return;
    const [start, end, step] = [Number(data.start), Number(data.end), Number(data.step)];
    const time = data.axis === "time";
    const readout = figure.querySelector(".readout");
    // The browser would show the chart's title as a tooltip under the crosshair.
    const title = plot.querySelector("title");
    plot.setAttribute("aria-label", title.textContent);
    plot.setAttribute("aria-describedby", plot.querySelector("desc").id);
    plot.removeAttribute("aria-labelledby");
    title.remove();
    if (time) localTicks(figure, start, end);
    const cross = figure.appendChild(Object.assign(document.createElement("div"), { className: "cross", hidden: true }));
    const brush = figure.appendChild(Object.assign(document.createElement("div"), { className: "brush", hidden: true }));
    let from = null;
    let current = null;
    const box = () => plot.getBoundingClientRect();
    const fraction = (event) => Math.min(Math.max((event.clientX - box().left) / box().width, 0), 0.99999);
    const index = (f) => Math.min(Math.floor((f * (end - start)) / step), points.length - 1);
    const place = (element, left, width) => {
      const frame = figure.getBoundingClientRect();
      element.style.left = `${box().left - frame.left + left}px`;
      element.style.top = `${box().top - frame.top + Number(data.top)}px`;
      element.style.height = `${data.inner}px`;
      if (width !== undefined) element.style.width = `${width}px`;
      element.hidden = false;
    };
    const name = (i) => {
      if (!time) return "";
      const at = new Date((start + i * step) / 1000);
      const day = `${at.getDate()} ${MONTHS[at.getMonth()]}`;
      return step >= 864e8 ? `${day} · ` : `${day} ${exact(at).slice(11, step < 6e7 ? 19 : 16)} · `;
    };
    const show = (i) => {
      current = i;
      for (const other of all(`figure.chart[data-axis="${data.axis}"]`)) other.showStep?.(i);
    };
    figure.showStep = (i) => {
      if (i === null) { cross.hidden = true; readout.textContent = ""; return; }
      place(cross, ((i + 0.5) * step * box().width) / (end - start));
      readout.textContent = name(i) + (points[i] || "");
    };
    const open = (i) => {
      if (time) {
        goTo(data.href, { range: null, since: isoOf(start + i * step), until: isoOf(start + (i + 1) * step) });
      } else {
        goTo(data.href, { step: String(1 + i * step) });
      }
    };
    plot.addEventListener("pointermove", (event) => {
      const f = fraction(event);
      show(index(f));
      if (from !== null && time) {
        const [a, b] = [Math.min(from, f), Math.max(from, f)];
        place(brush, a * box().width, (b - a) * box().width);
      }
    });
    plot.addEventListener("pointerleave", () => { if (from === null) show(null); });
    plot.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return;
      from = fraction(event);
      plot.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    plot.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const [a, b] = [from, fraction(event)].sort((x, y) => x - y);
      from = null;
      brush.hidden = true;
      if (!time || (b - a) * box().width < 6) { open(index(b)); return; }
      const since = start + index(a) * step;
      const until = start + (index(b) + 1) * step;
      goTo(location.href, { range: null, cursor: null, since: isoOf(since), until: isoOf(until) });
    });
    plot.addEventListener("pointercancel", () => { from = null; brush.hidden = true; });
    figure.tabIndex = 0;
    figure.setAttribute("aria-label", `${plot.getAttribute("aria-label")}. Arrow keys read the values, Enter opens one.`);
    figure.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1 };
      if (event.key in moves) {
        const next = current === null ? (moves[event.key] > 0 ? 0 : points.length - 1) : current + moves[event.key];
        show(Math.min(Math.max(next, 0), points.length - 1));
        say(readout.textContent);
        event.preventDefault();
      } else if (event.key === "Enter" && current !== null && event.target === figure) {
        open(current);
      } else if (event.key === "Escape") {
        show(null);
      }
    });
    figure.addEventListener("blur", () => show(null));
  };

  // -- copy --
  const copyText = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without a secure context there is no clipboard API; the old way still works.
      const area = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
      area.className = "hidden";
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) throw new Error("copy refused");
    }
  };
  const copy = async (button, load) => {
    const label = button.dataset.label || (button.dataset.label = button.textContent);
    try {
      await copyText(await load());
      button.textContent = "Copied";
      say(`${label} copied`);
    } catch {
      button.textContent = "Not copied";
      say("Copying failed");
    }
    setTimeout(() => { button.textContent = label; }, 1600);
  };
  const load = async (href) => {
    const answer = await fetch(href, { headers: { accept: "text/plain, application/json" } });
    if (!answer.ok) throw new Error(String(answer.status));
    return answer.text();
  };

  // -- rows --
  let at = -1;
  const rows = () => all("table[data-rows] tbody tr").filter((row) => row.querySelector("a.open"));
  const steps = () => all("article.step");
  const move = (by) => {
    const list = rows().length ? rows() : steps();
    if (!list.length) return;
    at = Math.min(Math.max(at + by, 0), list.length - 1);
    list.forEach((row, i) => row.classList.toggle("at", i === at));
    list[at].scrollIntoView({ block: "nearest" });
    const link = list[at].querySelector("a.open, a.step-call");
    link?.focus({ preventScroll: true });
  };

  // -- new rows wait --
  const poll = (pill) => {
    const ask = async () => {
      if (document.hidden) return;
      try {
        const found = JSON.parse(await load(pill.dataset.poll));
        const text = `${found.count}${found.more ? "+" : ""} ${pill.dataset.noun}`;
        pill.hidden = !found.count;
        if (found.count && pill.textContent !== text) {
          pill.textContent = text;
          say(text);
        }
      } catch { /* the server is away; the page stays as it is */ }
    };
    setInterval(ask, 5000);
    document.addEventListener("visibilitychange", ask);
  };

  // A page of measures renews itself while nobody points at it, reads it by keyboard or selects it.
  const renew = (place) => {
    let pointed = false;
    place.addEventListener("pointerenter", () => { pointed = true; });
    place.addEventListener("pointerleave", () => { pointed = false; });
    setInterval(async () => {
      const busy = pointed || document.hidden || place.contains(document.activeElement) || String(getSelection());
      if (busy) return;
      try {
        const page = new DOMParser().parseFromString(await load(location.href), "text/html");
        const fresh = page.getElementById(place.id);
        if (!fresh || place.contains(document.activeElement)) return;
        place.replaceChildren(...fresh.childNodes);
        const answer = page.querySelector(".answer");
        if (answer) document.querySelector(".answer").textContent = answer.textContent;
        prepare(place);
      } catch { /* the server is away; the page stays as it is */ }
    }, 1000 * Number(place.dataset.live));
  };

  // -- a run's two columns follow each other --
  const follow = () => {
    const list = steps();
    const lanes = document.querySelector(".wf-scroll");
    if (!list.length || !lanes) return;
    const mark = (number) => {
      const row = lanes.querySelector(`[data-step-row="${number}"]`);
      if (!row) return;
      for (const other of all("tr.at", lanes)) other.classList.remove("at");
      row.classList.add("at");
      const [top, bottom] = [row.offsetTop - 32, row.offsetTop + row.offsetHeight];
      if (top < lanes.scrollTop) lanes.scrollTop = top;
      else if (bottom > lanes.scrollTop + lanes.clientHeight) lanes.scrollTop = bottom - lanes.clientHeight;
    };
    // The step that the address names stays marked until the reader scrolls on.
    let named = false;
    const name = () => {
      const number = /^#step-(\d+)$/.exec(location.hash)?.[1];
      named = Boolean(number);
      if (named) mark(number);
    };
    for (const kind of ["wheel", "touchmove", "keydown"]) {
      addEventListener(kind, () => { named = false; }, { passive: true });
    }
    addEventListener("hashchange", name);
    name();
    const seen = new Set();
    const observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) seen.add(target);
        else seen.delete(target);
      }
      const first = list.find((step) => seen.has(step));
      if (first && !named) mark(first.dataset.step);
    }, { rootMargin: "-9px 0px -80% 0px" });
    list.forEach((step) => observer.observe(step));
  };

  // -- keyboard --
  let waiting = false;
  const toggleHelp = (open) => {
    const help = document.getElementById("help");
    const button = document.querySelector("[data-help]");
    help.hidden = open === undefined ? !help.hidden : !open;
    button?.setAttribute("aria-expanded", String(!help.hidden));
  };
  const typing = (element) => element.closest("input, textarea, select, [contenteditable]");
  const keys = (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      toggleHelp(false);
      if (typing(event.target)) event.target.blur();
      return;
    }
    if (typing(event.target)) return;
    if (waiting) {
      waiting = false;
      const link = all("[data-go]").find((a) => a.dataset.go === event.key);
      if (link) location.assign(link.href);
      return;
    }
    const actions = {
      "/": () => {
        const search = document.querySelector("[data-search]");
        if (search) { search.focus(); search.select(); } else location.assign("/runs#search");
      },
      j: () => move(1),
      k: () => move(-1),
      n: () => document.querySelector('a[rel="next"]')?.click(),
      p: () => document.querySelector('a[rel="prev"]')?.click(),
      g: () => { waiting = true; setTimeout(() => { waiting = false; }, 1500); },
      "?": () => toggleHelp(),
    };
    if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  };

  const clicks = (event) => {
    const target = event.target.closest("button, a, summary, input, select, label, tr");
    if (!target) return;
    if (target.dataset.themeSet) setTheme(target.dataset.themeSet);
    else if ("help" in target.dataset) toggleHelp();
    else if (target.dataset.copyText) copy(target, async () => target.dataset.copyText);
    else if (target.dataset.copyFrom) {
      copy(target, async () => document.getElementById(target.dataset.copyFrom).textContent);
    } else if (target.dataset.copy) {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      copy(target, () => load(target.dataset.copy));
    } else if (target.matches("table[data-rows] tbody tr") && !String(getSelection())) {
      const link = target.querySelector("a.open");
      if (!link) return;
      if (event.ctrlKey || event.metaKey) open(link.href, "_blank", "noopener");
      else location.assign(link.href);
    }
  };

  // Heads stick to the window where a table fits; where it does not, it scrolls in its own frame.
  const fit = () => {
    for (const frame of all(".scroll")) {
      frame.classList.remove("fits");
      frame.classList.toggle("fits", frame.scrollWidth <= frame.clientWidth);
    }
  };

  const prepare = (from) => {
    localTimes(from);
    fit();
    all("figure.chart", from).forEach(chart);
  };

  document.addEventListener("DOMContentLoaded", () => {
    showTheme();
    prepare(document);
    all("[data-poll]").forEach(poll);
    all("[data-live]").forEach(renew);
    follow();
    setInterval(() => localTimes(), 15000);
    addEventListener("resize", fit);
    document.addEventListener("keydown", keys);
    document.addEventListener("click", clicks);
    document.addEventListener("change", (event) => {
      if ("submit" in event.target.dataset) event.target.form.requestSubmit();
    });
    document.addEventListener("submit", (event) => {
      const question = event.target.dataset.confirm;
      if (question && !confirm(question)) event.preventDefault();
      // Empty fields would only make the address longer.
      else if (event.target.method === "get") {
        for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
      }
    });
    addEventListener("pageshow", () => all("form :disabled").forEach((field) => { field.disabled = false; }));
    if (location.hash === "#search") document.querySelector("[data-search]")?.focus();
  });
})();
