// Plays levels (tlbkit/show/game/tree.py): the reader decides which thread goes on. Every
// state, where its steps lead and how it ends are in the level's JSON, which is loaded when the
// level is opened. What was won is kept in this browser, and nowhere else.
"use strict";

(() => {
  const here = document.currentScript?.src;
  const KEPT = "tlbkit-game";
  const BEST = 3;

  const element = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };

  // A browser may refuse to keep anything; then the game is played without.
  function kept() {
    try {
      return JSON.parse(localStorage.getItem(KEPT)) ?? {};
    } catch {
      return {};
    }
  }
  function keep(progress) {
    try {
      localStorage.setItem(KEPT, JSON.stringify(progress));
    } catch {
      // it is only forgotten
    }
  }

  const stars = (n) => "★".repeat(n) + "☆".repeat(BEST - n);

  function mount(game) {
    if (game.dataset.live) return;
    game.dataset.live = "yes";
    const part = (name) => game.querySelector(`.tlbkit-${name}`);
    const buttons = new Map([...game.querySelectorAll("[data-level]")].map((b) => [b.dataset.level, b]));
    const names = [...buttons.keys()];
    let level; // as loaded
    let states; // of each node, a map from slot to value
    let draw;
    let taken = []; // [flow, node, text]
    let helped = 0; // stars that hints have cost
    let shown = false; // whether a win was shown
    let said = ""; // the answer to "it cannot be won"

    const node = () => level.nodes[taken.at(-1)?.[1] ?? 0];
    const text = (n) => level.texts[n];
    const named = (flow) => `CPU ${level.flows[flow].cpu}: ${level.flows[flow].name}`;

    function progress() {
      const known = kept();
      for (const [name, button] of buttons) {
        const won = known[name];
        button.querySelector("small").textContent = won === undefined ? "" : ` ${stars(won)}`;
        button.toggleAttribute("aria-current", name === level?.name);
      }
      const done = names.filter((name) => known[name] !== undefined).length;
      part("progress").querySelector("span").textContent = `${done} of ${names.length} levels done.`;
    }

    function earn(count) {
      const known = kept();
      known[level.name] = Math.max(known[level.name] ?? 0, count);
      keep(known);
      progress();
    }

    function threads() {
      const [, , next, waits, , where, end] = node();
      const cards = level.flows.map((flow, n) => {
        const step = next.find(([who]) => who === n);
        const wait = waits.find(([who]) => who === n);
        const card = element("div", "", { class: "tlbkit-thread" });
        const button = element("button", named(n), { type: "button", "aria-keyshortcuts": n + 1 });
        button.prepend(element("kbd", String(n + 1)));
        button.disabled = !step;
        button.dataset.flow = n;
        button.addEventListener("click", () => choose(n));
        const [name, file, line] = where[n].map(text);
        const at = element("p", "", { class: "tlbkit-where" });
        if (name) at.append(element("b", `${name}()`), ` ${file}`);
        else at.append(wait || step ? "in user space" : end ? "" : "has ended");
        card.append(button, at);
        if (line) card.append(element("code", line));
        const comes = step ? text(step[2]) : wait ? `Waits for ${text(wait[1])}.` : "";
        card.append(element("p", comes && step ? `Next: ${comes}` : comes, { class: "tlbkit-next" }));
        return card;
      });
      part("threads").replaceChildren(...cards);
    }

    function moves() {
      const button = (label, key, act, off) => {
        const made = element("button", label, { type: "button", "aria-keyshortcuts": key, title: `${label} (${key})` });
        made.disabled = Boolean(off);
        made.dataset.do = key;
        made.addEventListener("click", act);
        return made;
      };
      part("moves").replaceChildren(
        button("Undo", "u", undo, !taken.length),
        button("Again", "r", restart, !taken.length),
        button("Hint (costs a star)", "h", hint),
        button("Show me", "w", show),
        button("It cannot be won", "n", refuse),
      );
    }

    function tell() {
      const box = part("told");
      const end = node()[6];
      const lines = [];
      let look = "";
      if (said) lines.push(said);
      if (end) {
        const [kind, why] = [end[0], text(end[1])];
        look = kind;
        const steps = taken.length;
        if (kind === "won") {
          const fewest = level.path.length;
          const par = steps === fewest ? "the fewest there are" : `the fewest are ${fewest}`;
          lines.push(`Won: ${why}.`, `${steps} steps; ${par}. ${shown ? "It was shown to you." : stars(score())}`);
          lines.push(level.teaches);
          if (!shown) earn(score());
        } else if (kind === "safe") lines.push("All threads are done, and nobody was harmed. Undo, or begin again.");
        else if (kind === "stuck") lines.push(`${why}. That is not the harm that is asked for.`);
        else lines.push(`${why}. That is harm, but not the one that is asked for.`);
      }
      box.className = `tlbkit-told ${said.startsWith("Right") ? "won" : look}`;
      box.replaceChildren(...lines.map((line) => element("p", line)));
      const won = end && end[0] === "won";
      const after = names[names.indexOf(level.name) + 1];
      if ((won || said.startsWith("Right")) && after) {
        const next = element("button", "Next level", { type: "button" });
        next.addEventListener("click", () => open(after));
        box.append(next);
      }
    }

    const score = () => Math.max(1, BEST - helped - (taken.length > level.path.length ? 1 : 0));

    function update(quietly) {
      const number = taken.at(-1)?.[1] ?? 0;
      const last = taken.at(-1);
      const happened = last ? text(last[2]) : "Before anything happens. Who goes on?";
      draw(states[number], last ? level.flows[last[0]].cpu : -1, happened);
      part("happened").textContent = happened;
      part("stands").textContent = text(node()[4]) || "All TLBs agree with the tables.";
      threads();
      moves();
      tell();
      part("path").replaceChildren(
        ...taken.map(([, , what]) => element("li", text(what))),
      );
      if (!quietly && !document.body.dataset.jpThemeName) {
        const way = taken.map(([flow]) => flow).join("");
        history.replaceState(history.state, "", `#${level.name}${way ? `?path=${way}` : ""}`);
      }
      if (!quietly && !game.contains(document.activeElement)) game.focus({ preventScroll: true });
    }

    function take(flow) {
      const step = node()[2].find(([who]) => who === flow);
      if (step) taken.push(step);
      return Boolean(step);
    }
    function choose(flow) {
      said = "";
      if (take(flow)) update();
    }
    function undo() {
      said = "";
      taken.pop();
      update();
    }
    function restart() {
      said = "";
      taken = [];
      shown = false;
      update();
    }
    function hint() {
      helped += 1;
      said = `Hint: ${level.hint}`;
      update();
    }
    function show() {
      if (level.reason) {
        said = "Try to prove that it cannot be won.";
      } else {
        shown = true;
        taken = [];
        said = "";
        level.path.forEach(take);
      }
      update();
    }
    function refuse() {
      if (level.reason) {
        said = `Right: none of its ${level.nodes.length} states is harm. ${level.reason}`;
        earn(Math.max(1, BEST - helped));
      } else {
        helped += 1;
        said = "It can: some order ends in the harm that is asked for. That cost a star.";
      }
      update();
    }

    // Each node tells what differs from one before it.
    function unfold(nodes) {
      const made = [];
      for (const [parent, pairs] of nodes) {
        const now = new Map(made.length ? made[parent] : []);
        for (let i = 0; i < pairs.length; i += 2) now.set(pairs[i], pairs[i + 1]);
        made.push(now);
      }
      return made;
    }

    function play(told, way) {
      level = told;
      states = unfold(level.nodes);
      taken = [];
      helped = 0;
      shown = false;
      said = "";
      part("title").textContent = level.title;
      part("aim").textContent = level.aim;
      draw = globalThis.tlbkitStage.still(part("board"), level.film, `game-${level.name}`);
      progress();
      if (way) [...way].every((flow) => take(Number(flow)));
      update(true);
    }

    async function open(name, way) {
      const inline = game.querySelector("script[type='application/json']");
      if (inline) return play(JSON.parse(inline.textContent), way);
      try {
        const answer = await fetch(new URL(`game/${name}.json`, here));
        if (!answer.ok) throw new Error(answer.statusText);
        play(await answer.json(), way);
      } catch (problem) {
        part("aim").textContent = `This level could not be loaded: ${problem.message}.`;
      }
    }

    // An address names a level, and the steps that were taken in it.
    function follow() {
      const [name, query] = location.hash.slice(1).split("?");
      if (!buttons.has(name)) return false;
      open(name, new URLSearchParams(query).get("path"));
      return true;
    }

    for (const [name, button] of buttons) {
      button.disabled = false;
      button.addEventListener("click", () => open(name));
    }
    const forget = game.querySelector("[data-do=forget]");
    forget.disabled = false;
    forget.addEventListener("click", () => {
      keep({});
      progress();
    });
    game.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !level) return;
      const acts = { u: undo, r: restart, h: hint, w: show, n: refuse };
      const act = acts[event.key] ?? (level.flows[event.key - 1] && (() => choose(event.key - 1)));
      if (!act) return;
      event.preventDefault();
      act();
    });
    new ResizeObserver(() => {
      if (!level) return;
      draw = globalThis.tlbkitStage.still(part("board"), level.film, `game-${level.name}`);
      update(true);
    }).observe(part("play"));
    addEventListener("hashchange", follow);
    if (!follow()) open(game.dataset.level);
  }

  for (const game of document.querySelectorAll(".tlbkit-game")) mount(game);
})();
