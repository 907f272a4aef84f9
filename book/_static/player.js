// Brings the players of a page to life: recordings to step through, and graphs of states
// in which the reader decides who goes on.
//
// Each <form class="tlbkit-player"> is complete HTML for where it begins; what it moves
// through is the JSON at its end. Nothing is fetched and nobody is asked.
"use strict";

(() => {
  // ---- What both have in common -------------------------------------------------

  const element = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };

  // Shows a state; lines that read differently than before are marked, and say so.
  function fill(table, lines, before) {
    const rows = lines.map(([label, text]) => {
      const row = document.createElement("tr");
      const cell = element("td", text || "nothing");
      const was = before.get(label) ?? "";
      if (before.size && was !== text) {
        row.className = "changed";
        cell.append(element("small", ` was ${was || "nothing"}`));
      }
      row.append(element("th", label, { scope: "row" }), cell);
      return row;
    });
    table.tBodies[0].replaceChildren(...rows);
  }

  // Keys act while the focus is in the player, but not where they mean something else.
  function keys(form, actions) {
    form.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const arrows = event.key.startsWith("Arrow") || ["Home", "End"].includes(event.key);
      if (arrows && event.target.type === "range" && !event.shiftKey) return;
      const act = actions[(event.shiftKey && arrows ? "Shift+" : "") + event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
  }

  // The address follows the reader, and makes no history: back leaves the page.
  function remember(form, query) {
    history.replaceState(history.state, "", `#${form.dataset.name}?${query}`);
  }

  // What follows the name of this player in the page's address, if that names it.
  function asked(form) {
    const [target, query] = location.hash.slice(1).split("?");
    return target === form.dataset.name && query ? new URLSearchParams(query) : null;
  }

  function enable(form) {
    for (const part of form.querySelectorAll("fieldset")) part.disabled = false;
  }

  // ---- A recording, or two ------------------------------------------------------

  function take(section, film) {
    const table = section.querySelector("table");
    const list = section.querySelector("ol");
    const items = [...list.querySelectorAll("li[data-step]")];
    const { steps, groups, rows, texts } = film;
    const now = new Map(film.start); // row -> text, as numbers
    let at = 0;

    // A step back and forth is exact: each change knows both of its values.
    function go(position) {
      const target = Math.min(position, steps.length);
      const before = at === target - 1 ? lines() : new Map();
      for (; at < target; at++) for (const [row, , after] of steps[at][3]) now.set(row, after);
      for (; at > target; at--)
        for (const [row, was] of [...steps[at - 1][3]].reverse()) now.set(row, was);
      const here = lines();
      for (const label of before.keys()) if (!here.has(label)) here.set(label, "");
      fill(table, [...here], before);
      items.forEach((item, index) => {
        item.classList.toggle("done", index < at);
        item.toggleAttribute("aria-current", index === at - 1);
      });
      const current = items[Math.max(at - 1, 0)];
      if (current) {
        const room = list.clientHeight - current.offsetHeight;
        list.scrollTop = current.offsetTop - list.offsetTop - room / 2;
      }
    }

    const lines = () => {
      const known = [...now].filter(([, text]) => text).sort(([a], [b]) => a - b);
      return new Map(known.map(([row, text]) => [rows[row], texts[text]]));
    };

    const within = (step) => groups.filter(([, first, last]) => first <= step && step <= last);

    return {
      go,
      length: steps.length,
      // Where a whole function that begins (or ends) here would lead; else one step.
      over: () => Math.max(at + 1, ...groups.filter((g) => g[1] === at).map((g) => g[2] + 1)),
      overBack: () => Math.min(at - 1, ...groups.filter((g) => g[2] === at - 1).map((g) => g[1])),
      out: () => (within(at).at(-1)?.[2] ?? steps.length - 1) + 1,
      text: () => {
        if (!at) return "At the start.";
        const [cpu, text, why] = steps[at - 1];
        const reason = texts[text].includes(texts[why]) ? "" : `, ${texts[why]}`;
        const [inside] = within(at - 1).at(-1) ?? [];
        return `CPU ${cpu}: ${texts[text]}${reason}${inside ? ` (in ${inside})` : ""}`;
      },
    };
  }

  function replay(form, content) {
    const takes = [...form.querySelectorAll(".tlbkit-take")].map((section, index) =>
      take(section, content.films[index]),
    );
    const [main] = takes;
    const slider = form.elements.at;
    const longest = Number(slider.max);
    const status = form.querySelector("[role=status]");

    function go(position, quietly) {
      const at = Math.max(0, Math.min(position, longest));
      slider.value = at;
      slider.setAttribute("aria-valuetext", `after step ${at} of ${longest}`);
      for (const one of takes) one.go(at);
      const said = takes.map((one) => one.text());
      const alike = said.every((text) => text === said[0]);
      status.textContent = `Step ${at} of ${longest}. ${alike ? said[0] : said.join(" — ")}`;
      if (!quietly) remember(form, `seed=${content.seed}&step=${at}`);
    }

    const here = () => Number(slider.value);
    const actions = {
      step: () => go(here() + 1),
      back: () => go(here() - 1),
      over: () => go(main.over()),
      overBack: () => go(main.overBack()),
      out: () => go(main.out()),
      differ: () => content.difference !== null && go(content.difference + 1),
    };
    for (const button of form.querySelectorAll("[data-do]")) {
      button.addEventListener("click", actions[button.dataset.do]);
    }
    slider.addEventListener("input", () => go(here()));
    for (const list of form.querySelectorAll(".tlbkit-steps")) {
      list.addEventListener("click", ({ target }) => {
        const item = target.closest("li[data-step]");
        if (item) go(Number(item.dataset.step) + 1);
      });
    }
    keys(form, {
      ArrowRight: actions.step,
      ArrowLeft: actions.back,
      "Shift+ArrowRight": actions.over,
      "Shift+ArrowLeft": actions.overBack,
      Home: () => go(0),
      End: () => go(longest),
      o: actions.out,
      d: actions.differ,
    });

    const follow = (quietly) => {
      const link = asked(form);
      const seed = Number(link?.get("seed") ?? content.seed);
      const known = link && seed === content.seed;
      if (link) form.scrollIntoView();
      if (known || quietly) go(Number(known ? link.get("step") : content.at) || 0, true);
      if (link && !known) status.textContent += ` The address asks for seed ${seed}.`;
    };
    follow(true);
    addEventListener("hashchange", () => follow(false));
    enable(form);
  }

  // ---- You are the scheduler ----------------------------------------------------

  const ENDS = { done: "Done", broken: "A rule is broken", stuck: "Stuck" };

  function turns(form, { nodes, rows, texts, flows, worst }) {
    const status = form.querySelector("[role=status]");
    const table = form.querySelector("table");
    const path = form.querySelector(".tlbkit-path");
    const buttons = [...form.querySelectorAll("[data-flow]")];
    const named = (flow) => `CPU ${flows[flow].cpu}, ${flows[flow].name}`;
    const shown = (node) =>
      new Map(nodes[node].shows.map((text, row) => [rows[row], texts[text]]));
    let taken = []; // [flow, node, text] of each step so far

    const here = (back = 0) => taken.at(-1 - back)?.[1] ?? 0;

    function show(quietly) {
      const node = nodes[here()];
      fill(table, [...shown(here())], taken.length ? shown(here(1)) : new Map());
      path.replaceChildren(
        ...taken.map(([flow, , text]) => {
          const item = element("li", ` ${texts[text]}`);
          item.prepend(element("b", `CPU ${flows[flow].cpu}`));
          return item;
        }),
      );
      path.scrollTop = path.scrollHeight;
      buttons.forEach((button, flow) => {
        const next = node.next.find(([who]) => who === flow);
        const waits = node.waits.find(([who]) => who === flow);
        button.disabled = !next;
        button.querySelector("small").textContent = next
          ? texts[next[2]]
          : waits
            ? `waits for ${texts[waits[1]]}`
            : node.end
              ? ""
              : "has ended";
      });
      const last = taken.at(-1);
      const said = last ? `${named(last[0])}: ${texts[last[2]]}. ` : "The start. ";
      const end = node.end ? `${ENDS[node.end[0]]}: ${texts[node.end[1]]}.` : "";
      status.textContent = `${said}${end}`;
      form.dataset.end = node.end ? node.end[0] : "";
      // A button that is off loses the focus, and with it the keys.
      if (!quietly && !form.contains(document.activeElement)) form.focus();
      if (document.activeElement?.disabled) form.focus();
      if (!quietly) remember(form, `path=${taken.map(([flow]) => flow).join("")}`);
    }

    function choose(flow) {
      const next = nodes[here()].next.find(([who]) => who === flow);
      if (next) taken.push(next);
      return Boolean(next);
    }

    const actions = {
      undo: () => taken.pop() && show(),
      restart: () => {
        taken = [];
        show();
      },
      worst: () => {
        taken = [];
        for (const index of worst) taken.push(nodes[here()].next[index]);
        show();
      },
    };
    for (const button of form.querySelectorAll("[data-do]")) {
      button.addEventListener("click", actions[button.dataset.do]);
    }
    buttons.forEach((button, flow) => {
      button.addEventListener("click", () => choose(flow) && show());
    });
    const numbers = buttons.map((_, flow) => [String(flow + 1), () => choose(flow) && show()]);
    keys(form, {
      ...Object.fromEntries(numbers),
      u: actions.undo,
      r: actions.restart,
      w: actions.worst,
    });

    const follow = () => {
      const way = asked(form)?.get("path");
      if (way === undefined || way === null) return false;
      taken = [];
      [...way].every((flow) => choose(Number(flow)));
      form.scrollIntoView();
      show(true);
      return true;
    };
    if (!follow()) show(true);
    addEventListener("hashchange", follow);
    enable(form);
  }

  const seen = {};
  for (const form of document.querySelectorAll(".tlbkit-player")) {
    const { kind, name } = form.dataset;
    seen[name] = (seen[name] ?? 0) + 1;
    if (seen[name] > 1) form.dataset.name += `-${seen[name]}`;
    form.id = `player-${form.dataset.name}`; // a heading may have the name itself
    form.addEventListener("submit", (event) => event.preventDefault());
    const content = JSON.parse(form.querySelector("script").textContent);
    (kind === "replay" ? replay : turns)(form, content);
  }
})();
