// Draws films of the machine (tlbkit/show/stage/film.py): the boards of one recording or
// of two side by side, and below them the time line, which is also how to move.
//
// Each <form class="tlbkit-stage"> is complete HTML without this; what it shows is the JSON
// at its end. A film says what stands where and what changes from moment to moment. Nothing
// is decided here: which cell is stale and how is a value of the film.
"use strict";

globalThis.tlbkitStage ??= (() => {
  const escaped = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  const esc = (text) => String(text).replace(/[&<>"]/g, (c) => escaped[c]);
  const tag = (name, attributes, inner = "") => {
    let made = `<${name}`;
    for (const key in attributes) {
      const value = attributes[key];
      if (value !== undefined && value !== "") made += ` ${key}="${value}"`;
    }
    return `${made}>${inner}</${name}>`;
  };
  const text = (x, y, said, attributes = {}) => tag("text", { x, y, ...attributes }, esc(said));
  const rect = (x, y, width, height, attributes) =>
    tag("rect", { x, y, width: Math.max(width, 0), height, ...attributes });
  const ns = (tenths) => {
    const [number, unit] = tenths < 1e6 ? [tenths / 10, "ns"] : [tenths / 1e4, "µs"];
    return `${Math.round(number).toLocaleString("en")} ${unit}`;
  };

  // ---- A film, at any moment ------------------------------------------------------

  // What a film knows beside the drawing: where it stands, forwards and backwards.
  function reel(film) {
    const now = new Map();
    const undo = [];
    let at = 0;
    const set = (pairs) => {
      const was = [];
      for (let i = 0; i < pairs.length; i += 2) {
        was.push(pairs[i], now.get(pairs[i]) ?? 0);
        now.set(pairs[i], pairs[i + 1]);
      }
      return was;
    };
    set(film.start);
    let time = 0;
    const begins = film.moments.map(([, , , spent]) => {
      const begun = time;
      for (let i = 1; i < spent.length; i += 2) time += spent[i];
      return begun;
    });
    return {
      film,
      begins,
      end: time,
      get at() {
        return at;
      },
      go(target) {
        for (; at < target; at++) undo.push(set(film.moments[at][4]));
        for (; at > target; at--) set(undo.pop());
      },
      // What stands on the board: [slot, value, its number] of each slot that holds something.
      *shown() {
        for (const [slot, n] of now) if (n) yield [film.slots[slot], film.values[n], n];
      },
      happened: () => (at ? film.texts[film.moments[at - 1][1]] : "Before it begins."),
      path: () => (at ? film.texts[film.moments[at - 1][2]] : ""),
      stands: () => film.texts[film.says[at]],
      cpu: () => (at ? film.moments[at - 1][0] : -1),
    };
  }

  // ---- The board ------------------------------------------------------------------

  const LANE = 18; // where the names of TLBIs in flight stand
  const DOT = 9;
  const PILE = 7; // what one of a heap takes

  // Where everything is, for one width; a film is laid out once for each.
  function layout(film, width) {
    const label = Math.min(104, Math.max(72, width * 0.2));
    const count = Math.max(film.columns.length, 1);
    const gap = film.gaps.length ? Math.min(14, (width - label) * 0.04) : 0;
    const room = width - label - gap * film.gaps.length - 4;
    const cell = Math.min(46, room / count);
    const roomy = cell >= 25;
    const height = roomy ? 30 : cell >= 12 ? 24 : 18;
    const pitch = height + (roomy ? 9 : 7);
    const left = [];
    let x = label;
    for (let column = 0; column < count; column++) {
      if (film.gaps.includes(column)) x += gap;
      left.push(x);
      x += cell;
    }
    const right = x;
    const [, most] = film.heap ?? ["", 0];
    const perPile = Math.max(1, Math.floor((width - label) / PILE));
    const pile = LANE + Math.ceil(most / perPile) * PILE;
    const top = film.heap ? pile : LANE + 4;
    const tables = film.spaces.map((_, space) => top + space * pitch);
    let y = top + film.spaces.length * pitch + 4;
    const lane = y;
    y += LANE;
    const rows = film.rows.map((_, row) => y + row * pitch);
    y += film.rows.length * pitch;
    const dots = y + 4;
    const across = film.heap ? width : right;
    const perLine = Math.max(1, Math.floor((across - label) / DOT));
    const lines = Math.ceil(film.others / perLine);
    const tally = dots + Math.max(lines * DOT, 16) + 18;
    const bottom = film.heap ? tally + 4 : film.others ? tally - 12 : y;
    return {
      width, label, cell, roomy, height, pitch, left, right, tables, lane, rows, dots, perLine,
      perPile, tally, bottom,
      end: (column) => left[column] + cell,
    };
  }

  // One cell, as wide as what it covers. The outline says how it stands to the tables.
  function cellMarkup(at, y, [first, last], value) {
    const { left, end, height, roomy } = at;
    const pad = roomy ? 3 : 1;
    const x = left[first] + pad;
    const width = end(last) - pad - x;
    const inset = { rx: roomy ? 5 : 2 };
    if (!value) return roomy ? rect(x, y, width, height, { ...inset, class: "none" }) : "";
    const [rights, frame, marks, kind, , verdict] = value;
    const valid = kind !== "invalid";
    const look = !valid ? "invalid" : rights.includes("w") ? "write" : rights.startsWith("r") ? "read" : "other";
    const letters = width >= 17;
    // Where there is no room for letters, read-only is half as high as writable.
    const low = look === "read" && !letters ? height / 2 : 0;
    let made = rect(x, y + low, width, height - low, { ...inset, class: look });
    if (letters) {
      const short = { "no access": "none", "swapped out": "swap" }[rights] ?? rights;
      const small = short.length * 7.5 > width - 2 ? "tiny" : "strong";
      made += text(x + width / 2, y + (frame ? 14 : height / 2 + 4), short, { class: `on-${look} ${small}` });
      if (frame && roomy) made += text(x + width / 2, y + 25, frame, { class: `on-${look} small` });
      if (marks.includes("d")) made += tag("circle", { cx: x + width - 5, cy: y + 5, r: 2.4, class: `dot-${look}` });
      const others = marks.replace(/[do]/g, "");
      if (others) made += text(x + 3, y + 10, others, { class: `on-${look} tiny start` });
    }
    if (verdict && verdict !== "AGREES") {
      const grow = roomy ? 2.5 : 1;
      const around = { rx: inset.rx + 2, class: `verdict ${verdict.toLowerCase()}` };
      made += rect(x - grow, y - grow, width + 2 * grow, height + 2 * grow, around);
      if (verdict === "HOLE") {
        made += tag("circle", { cx: x + width, cy: y, r: roomy ? 6.5 : 4, class: "sign" });
        made += text(x + width, y + (roomy ? 4 : 3), "!", { class: `on-sign ${roomy ? "strong" : "tiny"}` });
      }
    }
    return made;
  }

  // The cells of a row: [first column, last column, number of the value]. Neighbours that
  // are parts of one entry are one cell.
  function cellsOf(film, numbers) {
    const cells = [];
    const alike = (one, other) => {
      const [here, there] = [film.values[one], film.values[other]];
      return here && there && !["page", "invalid"].includes(here[3]) && here[4] === there[4] && here[1] === there[1];
    };
    for (let column = 0; column < film.columns.length; column++) {
      const number = numbers[column] ?? 0;
      let last = column;
      while (alike(number, numbers[last + 1] ?? 0)) last++;
      cells.push([column, last, number]);
      column = last;
    }
    return cells;
  }

  // Neighbouring columns of which a walk cache knows alike: [cpu, space, first, last, how].
  function runs(walks) {
    const found = [];
    walks.sort(([one], [other]) => one[1] - other[1] || one[2] - other[2] || one[3] - other[3]);
    for (const [[, cpu, space, column], verdict] of walks) {
      const last = found.at(-1);
      const goesOn = last && last[0] === cpu && last[1] === space && last[3] === column - 1 && last[4] === verdict;
      if (goesOn) last[3] = column;
      else found.push([cpu, space, column, column, verdict]);
    }
    return found;
  }

  // Thousands of processes are a heap; who has gone leaves an empty place.
  function heapMarkup(at, film, alive, tally) {
    const [name, most] = film.heap;
    const place = (n) => [at.label + (n % at.perPile) * PILE, LANE - 6 + Math.floor(n / at.perPile) * PILE];
    let there = "";
    let gone = "";
    for (let n = 0; n < most; n++) {
      const [x, y] = place(n);
      if (n < alive) there += `M${x} ${y}h5v5h-5z`;
      else gone += `M${x + 2} ${y + 2}h1v1h-1z`;
    }
    return (
      text(0, LANE + 4, alive.toLocaleString("en"), { class: "label strong" }) +
      text(0, LANE + 18, name, { class: "label" }) +
      tag("path", { d: there, class: "there" }) +
      tag("path", { d: gone, class: "gone" }) +
      text(at.label, at.tally, tally, { class: "start strong" })
    );
  }

  // A board that redraws what is different: of most rows nothing, of the others few cells.
  function boardOf(host, one, at, name) {
    const { film } = one;
    const { label, left, right, tables, lane, rows, dots, height, roomy } = at;
    const keys = [
      ...film.spaces.map((_, space) => [`page/${space}`, tables[space]]),
      ...film.rows.map(([cpu, space], row) => [`tlb/${cpu}/${space}`, rows[row]]),
    ];
    const rowOf = (cpu) => film.rows.findIndex(([number]) => number === cpu);

    const hatch = { id: `${name}-hatch`, width: 6, height: 6, patternUnits: "userSpaceOnUse" };
    const corner = film.heap ? "" : text(0, LANE - 4, "page", { class: "quiet small start" });
    let still = corner + tag("pattern", { ...hatch, patternTransform: "rotate(45)" }, rect(0, 0, 1.4, 6, { class: "irqs" }));
    const every = Math.ceil(18 / at.cell); // as many page numbers as fit
    film.columns.forEach(([name], column) => {
      if (column % every) return;
      still += text((left[column] + at.end(column)) / 2, LANE - 4, name, { class: "quiet small" });
    });
    film.spaces.forEach((name, space) => {
      still += text(0, tables[space] + height / 2 + 4, name, { class: "label" });
    });
    if (!film.heap) still += tag("line", { x1: 0, x2: right, y1: lane, y2: lane, class: "rule" });
    if (!roomy) for (const [, y] of keys) still += rect(left[0], y, right - left[0], height, { class: "none" });
    if (film.others) still += text(0, dots + 9, `${film.others} ${film.heap ? "CPUs" : "others"}`, { class: "label" });

    const parts = ["under", "walks", "labels", ...keys.map(([key]) => key), "over"];
    host.innerHTML = tag(
      "svg",
      { height: at.bottom + 4, width: "100%", role: "img" },
      tag("g", {}, still) + parts.map((name) => tag("g", { "data-row": name })).join(""),
    );
    const picture = host.firstChild;
    const groups = new Map([...picture.children].slice(1).map((g) => [g.dataset.row, g]));
    const drawn = new Map(); // what each group shows
    const draw = (name, markup) => {
      if (drawn.get(name) === markup) return;
      drawn.set(name, markup);
      groups.get(name).innerHTML = markup;
    };
    const cellGroup = (y, [first, last, number]) => {
      const value = film.values[number];
      const said = value ? value[6] : "nothing";
      const place = { class: "cell", "data-first": first, "data-last": last, "data-said": esc(said) };
      return tag("g", place, cellMarkup(at, y, [first, last], value));
    };
    function drawRow(key, y, numbers) {
      const cells = cellsOf(film, numbers);
      const before = drawn.get(key);
      drawn.set(key, cells);
      const group = groups.get(key);
      const same = before?.length === cells.length && before.every((cell, n) => cell[0] === cells[n][0]);
      if (!same) {
        group.innerHTML = cells.map((cell) => cellGroup(y, cell)).join("");
        return;
      }
      cells.forEach((cell, n) => {
        if (cell[2] === before[n][2]) return;
        const value = film.values[cell[2]];
        const element = group.children[n];
        element.dataset.said = value ? value[6] : "nothing";
        element.innerHTML = cellMarkup(at, y, cell, value);
      });
    }

    return function update() {
      const cells = new Map(keys.map(([key]) => [key, []]));
      const walks = [];
      const flights = [];
      const waiting = new Map();
      const struck = new Map();
      const off = new Set();
      let alive = 0;
      let tally = "";
      for (const [slot, value, number] of one.shown()) {
        const [kind, cpu, space] = slot;
        if (kind === "page") cells.get(`page/${cpu}`)[slot[2]] = number;
        else if (kind === "tlb") cells.get(`tlb/${cpu}/${space}`)[slot[3]] = number;
        else if (kind === "walk") walks.push([slot, value]);
        else if (kind === "flies") flights.push(...value.map((flight) => [cpu, flight]));
        else if (kind === "waits") waiting.set(cpu, value);
        else if (kind === "strikes") struck.set(cpu, value);
        else if (kind === "irqs") off.add(cpu);
        else if (kind === "heap") alive = value;
        else if (kind === "tally") tally = value;
      }
      for (const [key, y] of keys) drawRow(key, y, cells.get(key));
      let under = "";
      let labels = "";
      let over = "";

      // Whose turn it is, who cannot be interrupted, and who waits.
      film.rows.forEach(([cpu, space], row) => {
        const y = rows[row];
        const turn = cpu === one.cpu();
        const wide = [0, y - 4, right + 3, height + 8];
        if (turn) under += rect(...wide, { rx: 7, class: "turn" });
        if (off.has(cpu)) under += rect(...wide, { rx: 7, fill: `url(#${name}-hatch)` });
        const waits = waiting.get(cpu);
        const own = waits?.length === 1 && waits[0] === cpu;
        let note = film.spaces.length > 1 ? film.spaces[space].replace("tables of ", "TLB, ") : "";
        if (off.has(cpu)) note = "irqs off";
        if (waits) note = own ? "own flush" : `waits for ${waits.length}`;
        const middle = y + height / 2;
        labels += text(0, note ? middle - 2 : middle + 4, `CPU ${cpu}`, { class: turn ? "label strong" : "label" });
        if (note) labels += text(0, middle + 11, note, { class: waits ? "label waits" : "label note" });
      });

      // What a walk cache knows is a line under the pages that it leads to.
      let lines = "";
      for (const [cpu, space, first, last, verdict] of runs(walks)) {
        const row = film.rows.findIndex(([number, of]) => number === cpu && of === space);
        const y = rows[row] + height + 3.5;
        const look = verdict === "HOLE" ? "walk hole" : "walk";
        lines += tag("line", { x1: left[first] + 1, x2: at.end(last) - 1, y1: y, y2: y, class: look });
      }
      draw("walks", lines);

      // CPUs that never hold anything are dots, which light up when they hear something.
      const loud = flights.some(([, flight]) => flight[3]);
      const hit = [...struck.values()].some((whom) => whom.some((cpu) => rowOf(cpu) < 0));
      if (film.others) {
        let field = "";
        for (let n = 0; n < film.others; n++) {
          const x = label + (n % at.perLine) * DOT + DOT / 2;
          const y = dots + Math.floor(n / at.perLine) * DOT + DOT / 2;
          field += `M${x - 3} ${y}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0`;
        }
        // Told apart by the moment, so that each is a new one and flashes.
        const look = hit ? "dots struck" : loud ? "dots loud" : "dots";
        over += tag("path", { d: field, class: look, "data-moment": one.at });
      }
      if (film.heap) over += heapMarkup(at, film, alive, tally);

      // A TLBI in flight: the pages that it names, across the CPUs that it reaches.
      const bottom = film.others ? at.bottom - 2 : rows.at(-1) + height + 6;
      flights.forEach(([cpu, [name, , columns, everywhere]], index) => {
        const own = film.rows.map(([number], row) => [number, row]).filter(([number]) => number === cpu);
        const top = everywhere ? lane + LANE - 3 : rows[own[0][1]] - 5;
        const end = everywhere ? bottom : rows[own.at(-1)[1]] + height + 5;
        const [x, to] = columns ? [left[columns[0]], at.end(columns[1])] : [label - 6, label - 2];
        under += rect(x - 1, top, to - x + 2, end - top, { rx: 7, class: "flight" });
        over += rect(x - 1, top, to - x + 2, end - top, { rx: 7, class: "flight-edge" });
        if (index < flights.length - 1) return;
        const more = flights.length > 1 ? ` and ${flights.length - 1} more` : "";
        const said = `TLBI ${name}${more}`;
        const half = said.length * 3.4;
        const middle = Math.max(Math.min((x + to) / 2, right - half), label + half);
        over += text(middle, lane + LANE - 6, said, { class: "small flying" });
      });

      // An IPI goes through whatever the others do.
      for (const whom of film.heap ? [] : struck.values()) {
        for (const row of new Set(whom.map(rowOf))) {
          if (row < 0) continue;
          const y = rows[row] + height / 2;
          const zigzag = Array.from({ length: 9 }, (_, n) => `${label + ((right - label) * n) / 8} ${y + (n % 2 ? 5 : -5)}`);
          over += tag("polyline", { points: zigzag.join(" "), class: "strike" });
        }
        const many = `IPI to ${whom.length} CPU${whom.length > 1 ? "s" : ""}`;
        over += text((label + right) / 2, lane + LANE - 6, many, { class: "small struck-text" });
      }
      draw("under", under);
      draw("labels", labels);
      draw("over", over);
      picture.setAttribute("aria-label", one.happened());
    };
  }

  // ---- The time line ----------------------------------------------------------------

  const SPENT = ["other", "call", "fault", "walk", "store", "send", "wait", "local", "ipi"];

  function lanesOf(film) {
    return [...new Set(film.moments.map(([cpu]) => cpu))].sort((a, b) => a - b).slice(0, 12);
  }

  function lineMarkup(reels, names, width) {
    const end = Math.max(...reels.map((one) => one.end), 1);
    const label = 52;
    const room = width - label - 64;
    const px = (tenths) => label + (tenths / end) * room;
    let made = "";
    let y = 4;
    reels.forEach((one, take) => {
      made += text(0, y + 10, names[take], { class: `label strong take-${reels.length > 1 ? take : 1}` });
      y += 15;
      const lanes = lanesOf(one.film);
      const high = lanes.length > 6 ? 9 : 15;
      lanes.forEach((cpu, lane) => {
        const top = y + lane * (high + 3);
        made += text(0, top + high - 3, cpu < 0 ? "exits" : `CPU ${cpu}`, { class: "quiet small start" });
        made += tag("line", { x1: label, x2: px(one.end), y1: top + high / 2, y2: top + high / 2, class: "rule" });
        let run = null; // neighbours of one kind are one block
        const flush = () => {
          if (!run) return;
          const wide = px(run.to) - px(run.from);
          made += rect(px(run.from), top, Math.max(wide - 0.4, 0.5), high, { class: `spent-${SPENT[run.kind]}` });
          const word = { fault: "fault", wait: "waits", call: "call", ipi: "IPI" }[SPENT[run.kind]];
          if (word && wide > word.length * 6 + 4 && high > 12) {
            made += text(px(run.from) + wide / 2, top + 11, word, { class: `tiny on-spent-${SPENT[run.kind]}` });
          }
          run = null;
        };
        one.film.moments.forEach(([who, , , spent], moment) => {
          if (who !== cpu) return;
          let time = one.begins[moment];
          for (let i = 0; i < spent.length; i += 2) {
            if (run && run.kind === spent[i] && run.to === time) run.to = time + spent[i + 1];
            else {
              flush();
              run = { kind: spent[i], from: time, to: time + spent[i + 1] };
            }
            time += spent[i + 1];
          }
        });
        flush();
      });
      const height = lanes.length * (high + 3);
      made += text(px(one.end) + 5, y + high - 3, ns(one.end), { class: "small start" });
      y += height + 7;
    });
    made += tag("g", { class: "head" }, tag("line", { x1: 0, x2: 0, y1: 4, y2: y - 4 }) + tag("circle", { cx: 0, cy: 5, r: 5 }));
    return { made, height: y, px, time: (x) => ((x - label) / room) * end };
  }

  // ---- Moving through time ----------------------------------------------------------

  // Where both stop: in step as long as they do the same, then each at its own time.
  function ticksOf(reels) {
    const at = reels.map(() => 0);
    const ticks = [{ time: 0, at: [...at] }];
    for (;;) {
      const next = reels.map((one, k) => one.begins[at[k]] ?? Infinity);
      const time = Math.min(...next);
      if (time === Infinity) break;
      next.forEach((begun, k) => {
        if (begun - time < 1) at[k]++;
      });
      ticks.push({ time, at: [...at] });
    }
    const end = Math.max(...reels.map((one) => one.end));
    ticks.push({ time: end, at: [...at] });
    return ticks;
  }

  // ---- One stage --------------------------------------------------------------------

  function mount(form) {
    if (form.dataset.live) return;
    form.dataset.live = "yes";
    const part = (name) => form.querySelector(`.tlbkit-${name}`);
    const content = JSON.parse(form.querySelector("script[type='application/json']").textContent);
    const takes = [...form.querySelectorAll(".tlbkit-scene")];
    const slider = form.elements.at;
    const calm = matchMedia("(prefers-reduced-motion: reduce)");
    let reels, ticks, line, boards;
    let tick = 0;
    let playing = 0;

    function load(films) {
      reels = films.map(reel);
      ticks = ticksOf(reels);
      slider.max = ticks.length - 1;
      tick = Math.min(tick, ticks.length - 1);
      resize();
    }

    function resize() {
      const wide = Math.max(...reels.map((one) => one.film.columns.length)) > 14;
      part("scenes").classList.toggle("wide", wide);
      boards = takes.map((take, k) => {
        const host = take.querySelector(".tlbkit-board");
        return boardOf(host, reels[k], layout(reels[k].film, Math.max(host.clientWidth, 240)), `${form.id}-${k}`);
      });
      const box = part("line");
      line = lineMarkup(reels, content.names, Math.max(box.clientWidth, 240));
      box.innerHTML = tag("svg", { height: line.height, width: "100%", "aria-hidden": "true", focusable: "false" }, line.made);
      show();
    }

    function show() {
      const { time, at } = ticks[tick];
      takes.forEach((take, k) => {
        const one = reels[k];
        one.go(at[k]);
        const done = at[k] === one.film.moments.length && time >= one.end;
        boards[k]();
        const [ending, harm] = one.film.ends ?? [`Done after ${ns(one.end)}.`];
        const over = done || (one.film.ends && at[k] === one.film.moments.length);
        take.querySelector(".tlbkit-happened").textContent = over ? ending : one.happened();
        take.classList.toggle("harm", Boolean(over && harm));
        take.classList.toggle("safe", Boolean(over && harm === false));
        take.querySelector(".tlbkit-stands").textContent = one.stands();
        const path = one.path().split(" > ");
        take.querySelector(".tlbkit-path").textContent = done ? "" : path.slice(-3).join(" › ");
        take.querySelector(".tlbkit-path").title = path.join(" › ");
        take.querySelector(".tlbkit-locks").textContent = locks(one);
        if (take.querySelector("details")?.open) table(take, one);
      });
      part("line").querySelector(".head").setAttribute("transform", `translate(${line.px(time)} 0)`);
      slider.value = tick;
      slider.setAttribute("aria-valuetext", `${tick} of ${ticks.length - 1}, at ${ns(time)}: ${takes.map((t) => t.querySelector(".tlbkit-happened").textContent).join(" — ")}`);
    }

    function locks(one) {
      const held = [];
      for (const [slot, value] of one.shown()) {
        if (slot[0] !== "lock") continue;
        const [holders, waiters] = value;
        const who = holders.map(([cpu, how]) => `CPU ${cpu}${how === "read" ? " (reading)" : ""}`).join(", ");
        held.push(`${slot[1]}: ${who || "free"}${waiters.length ? `; CPU ${waiters.join(", ")} waits` : ""}`);
      }
      return held.length ? `Locks held: ${held.join("; ")}` : "";
    }

    function table(take, one) {
      const rows = new Map();
      for (const [slot, value] of one.shown()) {
        if (slot[0] !== "page" && slot[0] !== "tlb") continue;
        const [space] = slot.slice(-2);
        const who = slot[0] === "page" ? one.film.spaces[space] : `CPU ${slot[1]}${one.film.spaces.length > 1 ? `, ${one.film.spaces[space]}` : ""}`;
        if (!rows.has(who)) rows.set(who, []);
        rows.get(who)[slot.at(-1)] = value[6];
      }
      const lines = [];
      for (const [who, cells] of rows) {
        cells.forEach((said, column) => lines.push(`<tr><th scope="row">${esc(who)}</th><td>page ${column}</td><td>${esc(said)}</td></tr>`));
      }
      take.querySelector("tbody").innerHTML = lines.join("") || "<tr><td>nothing</td></tr>";
    }

    const clamp = (n) => Math.max(0, Math.min(ticks.length - 1, n));
    function go(to, quietly) {
      tick = clamp(to);
      show();
      // A notebook keeps the address to itself.
      const ours = !quietly && !document.body.dataset.jpThemeName;
      if (ours) history.replaceState(history.state, "", `#${form.dataset.name}?at=${tick}`);
    }
    const marks = () => {
      const found = [];
      for (let n = 1; n < ticks.length; n++) {
        const begun = ticks[n].at.some((at, k) => at !== ticks[n - 1].at[k] && content.differs[k]?.includes(at - 1));
        if (begun) found.push(n);
      }
      return found;
    };
    const moveToTime = (time) => {
      let n = 0;
      while (n + 1 < ticks.length && ticks[n + 1].time <= time) n++;
      if (n !== tick) go(n);
    };

    function stop() {
      clearInterval(playing);
      playing = 0;
      form.querySelector("[data-do=play]").textContent = "Play";
    }
    function play() {
      if (playing) return stop();
      if (tick === ticks.length - 1) go(0);
      form.querySelector("[data-do=play]").textContent = "Pause";
      const seconds = Number(form.elements.speed.value);
      const end = ticks.at(-1).time;
      let time = ticks[tick].time;
      const pause = calm.matches ? 1000 : 40;
      playing = setInterval(() => {
        if (calm.matches) go(tick + 1);
        else {
          time += (end * pause) / (seconds * 1000);
          moveToTime(time);
        }
        if (tick === ticks.length - 1) stop();
      }, pause);
    }

    const actions = {
      back: () => go(tick - 1),
      step: () => go(tick + 1),
      home: () => go(0),
      end: () => go(ticks.length - 1),
      differ: () => go(marks().find((n) => n > tick) ?? marks()[0] ?? tick),
      play,
    };
    for (const button of form.querySelectorAll("[data-do]")) {
      button.addEventListener("click", () => {
        if (button.dataset.do !== "play" && playing) stop();
        actions[button.dataset.do]();
      });
    }
    const keys = { ArrowLeft: "back", ArrowRight: "step", Home: "home", End: "end", " ": "play", n: "differ" };
    form.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
      if (event.key === " " && /BUTTON|SUMMARY/.test(event.target.tagName)) return;
      const act = keys[event.key];
      if (!act) return;
      event.preventDefault();
      if (act !== "play" && playing) stop();
      actions[act]();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    slider.addEventListener("input", () => go(Number(slider.value)));
    const box = part("line");
    const scrub = (event) => moveToTime(line.time(event.clientX - box.getBoundingClientRect().left));
    box.addEventListener("pointerdown", (event) => {
      if (playing) stop();
      box.setPointerCapture(event.pointerId);
      scrub(event);
    });
    box.addEventListener("pointermove", (event) => {
      if (box.hasPointerCapture(event.pointerId)) scrub(event);
    });
    takes.forEach((take, k) => {
      take.querySelector("details")?.addEventListener("toggle", () => table(take, reels[k]));
      take.querySelector(".tlbkit-board").addEventListener("click", ({ target }) => {
        const cell = target.closest(".cell");
        if (!cell) return;
        const { first, last, said } = cell.dataset;
        const [kind, cpu] = cell.parentNode.dataset.row.split("/");
        const who = kind === "page" ? "the tables" : `CPU ${cpu}`;
        const pages = first === last ? `page ${first}` : `pages ${first} to ${last}`;
        take.querySelector(".tlbkit-bits").textContent = `${who}, ${pages}: ${said}`;
      });
    });

    function follow() {
      const [name, query] = location.hash.slice(1).split("?");
      if (name !== form.dataset.name) return;
      const at = new URLSearchParams(query).get("at");
      if (at !== null) go(Number(at) || 0, true);
      form.scrollIntoView();
    }
    // Where the two part: just before the moment at which one does something else.
    function begin() {
      const at = content.at ?? 0;
      go(at < 0 ? Math.max((marks()[0] ?? 1) - 1, 0) : at, true);
    }
    load(content.films);
    begin();
    follow();
    addEventListener("hashchange", follow);
    new ResizeObserver(() => resize()).observe(part("line"));
    for (const set of form.querySelectorAll("fieldset")) set.disabled = false;
    // For who has other films to show, and for tests.
    form.tlbkit = {
      load(next) {
        Object.assign(content, next);
        part("title").textContent = next.title;
        part("lead")?.remove();
        for (const [k, take] of takes.entries()) {
          if (next.names[k] === undefined) continue;
          take.querySelector(".tlbkit-take").textContent = next.names[k];
          take.setAttribute("aria-label", next.names[k]);
        }
        tick = 0;
        load(next.films);
        begin();
      },
      go,
      ticks: () => ticks,
    };
  }

  const seen = {};
  function all() {
    for (const form of document.querySelectorAll(".tlbkit-stage:not([data-live])")) {
      const { name } = form.dataset;
      seen[name] = (seen[name] ?? 0) + 1;
      if (seen[name] > 1) form.dataset.name += `-${seen[name]}`;
      form.id = `show-${form.dataset.name}`;
      mount(form);
    }
  }

  // A board that its caller moves: what stands where is given at each call.
  function still(host, film, name) {
    const one = {
      film,
      at: 0,
      now: new Map(),
      who: -1,
      said: "",
      *shown() {
        for (const [slot, n] of one.now) if (n) yield [film.slots[slot], film.values[n], n];
      },
      happened: () => one.said,
      cpu: () => one.who,
    };
    const update = boardOf(host, one, layout(film, Math.max(host.clientWidth, 240)), name);
    return (now, who, said) => {
      Object.assign(one, { now, who, said, at: one.at + 1 });
      update();
    };
  }

  return { all, still };
})();

tlbkitStage.all();
