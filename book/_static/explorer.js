// Brings the explorers of a page to life.
//
// Each <form class="tlbkit-explorer"> is complete HTML for one setting; here its figures
// are drawn, its controls turned on, and later settings answered: by what was computed when
// the page was built, if one control moved, and else by tlbkit itself. It runs in a worker that
// starts while the reader looks at the form, or when a control is first moved.
"use strict";

(() => {
  const site = document.currentScript.dataset; // which files make the site live
  const base = document.currentScript.src;
  const asset = (name) => new URL(name, base).href;
  const theme = document.documentElement;
  const COLOURS = ["fill_color", "line_color", "hatch_color", "text_color"];
  const LOOKING_MS = 1000; // who looks that long at a form may well use it

  const SAY = {
    built: "Computed when this page was built. Move a control and tlbkit answers here, in the page.",
    off: "Computed when this page was built. This copy of the site was built without live Python, so the controls are off.",
    file: "Computed when this page was built. The controls need the page to come from a web server: run “python -m http.server” in the site’s folder.",
    starting: (arrived) => `Starting Python in this page: ${Math.round(100 * arrived)} % of it has come…`,
    kept: "Computed by tlbkit with the page. Where two controls have moved, it runs here.",
    live: (ms) => `Computed in this page by tlbkit, in ${ms} ms.`,
    copied: "The link is copied; it leads to this setting.",
    link: "The link to this setting stands in the address of the page.",
    failed: (why) => `Python cannot answer in this page: ${why}. The numbers shown are of the last setting that was answered; move a control to try again.`,
    refused: "The numbers shown are of the last setting that was answered.",
  };

  // ---- One worker for all explorers of the page ---------------------------------

  const waiting = new Map(); // request id -> the promise of its reply
  const watching = new Set(); // who shows how much of Python has come
  let worker = null; // promise of a started worker
  let arrived = 0; // which part of what it needs is there
  let requests = 0;

  function start() {
    const python = new Worker(asset(site.worker), { type: "module" });
    arrived = 0;
    return new Promise((resolve, reject) => {
      const fail = (why) => {
        python.terminate();
        worker = null; // the next move starts another
        reject(new Error(why));
        waiting.forEach((reply) => reply.reject(new Error(why)));
        waiting.clear();
      };
      python.onerror = (event) => fail(event.message || "the worker did not load");
      python.onmessage = ({ data }) => {
        if (data.failed) {
          fail(data.failed);
        } else if (data.ready) {
          resolve(python);
        } else if (data.arrived !== undefined) {
          arrived = data.arrived;
          for (const tell of watching) tell();
        } else {
          waiting.get(data.id).resolve(data.reply);
          waiting.delete(data.id);
        }
      };
      python.postMessage({
        open: {
          python: asset(site.python),
          snapshot: asset(site.snapshot),
          package: asset(site.package),
          bytes: Number(site.bytes),
        },
      });
    });
  }

  // Python begins before it is asked. That it fails is told to whoever asks.
  function prepare() {
    worker ??= start();
    worker.catch(() => {});
  }

  function ask(python, request) {
    const id = ++requests;
    python.postMessage({ id, request: JSON.stringify(request) });
    return new Promise((resolve, reject) => {
      waiting.set(id, { resolve, reject });
    }).then(JSON.parse);
  }

  // ---- Answers that came with the page --------------------------------------------

  const files = new Map(); // scenario -> the promise of its answers, by setting

  function kept(scenario) {
    if (!files.has(scenario)) {
      const file = fetch(asset(`${site.answers}${scenario}.json`))
        .then((response) => (response.ok ? response.json() : {}))
        .catch(() => ({}));
      files.set(scenario, file);
    }
    return files.get(scenario);
  }

  // ---- One explorer -------------------------------------------------------------

  function explorer(form, id) {
    const spec = JSON.parse(form.querySelector("script").textContent);
    const part = (name) => form.querySelector(`.tlbkit-${name}`);
    const panels = [...part("figures").children]; // Bokeh's figures, and boxes of text
    const buttons = form.querySelector(".tlbkit-actions");
    const documents = []; // the Bokeh document of each panel that is a figure
    let asking = false; // a request is under way
    let again = false; // a control moved meanwhile
    form.id = id;

    const controls = spec.parameters.map((parameter) => ({
      ...parameter,
      input: form.elements[parameter.name],
    }));
    // A control stands at one of its choices, except a line to write in, which has none.
    const standsAt = ({ choices, input }) => {
      if (!choices.length) return input.value;
      return choices[input.type === "checkbox" ? Number(input.checked) : input.value];
    };
    // Stages of the page that show the setting, drawn.
    const stages = [...document.querySelectorAll(`.tlbkit-stage[data-follows="${spec.scenario}"]`)];
    const settings = () => Object.fromEntries(controls.map((c) => [c.name, standsAt(c)]));
    const first = controls.map(({ input }) => (input.type === "checkbox" ? input.checked : input.value));

    // How an answer came about can be told from outside: built, kept, live, refused or failed.
    function say(how, state, text) {
      if (how) form.dataset.answer = how;
      part("state").textContent = state;
      if (text !== undefined) part("text").textContent = text;
    }

    function nameValue({ input, words }) {
      if (input.type !== "range") return;
      input.setAttribute("aria-valuetext", words[input.value]);
      input.parentElement.querySelector("output").textContent = words[input.value];
    }

    function fillTable({ header, rows }) {
      const number = /^[+-]?(0x[0-9a-f]+|\d[\d,.]*)( \S+)?$/; // and perhaps its unit
      const words = header.map((_, i) => !rows.every((row) => number.test(row[i])));
      const cell = (tag, text, column, scope) => {
        const element = document.createElement(tag);
        element.textContent = text;
        if (scope) element.scope = scope;
        if (words[column]) element.className = "words";
        return element;
      };
      const line = (cells) => {
        const row = document.createElement("tr");
        row.append(...cells);
        return row;
      };
      const table = form.querySelector("table");
      table.tHead.replaceChildren(
        line(header.map((text, i) => (text ? cell("th", text, i, "col") : cell("td", "", i)))),
      );
      table.tBodies[0].replaceChildren(
        ...rows.map(([first, ...rest]) =>
          line([
            first ? cell("th", first, 0, "row") : cell("td", "", 0),
            ...rest.map((text, i) => cell("td", text, i + 1)),
          ]),
        ),
      );
    }

    function fillFields(panel, { fields }) {
      const boxes = fields.name.map((name, i) => {
        const box = document.createElement("li");
        if (fields.chosen[i]) box.className = "chosen";
        for (const [tag, text] of [
          ["small", fields.bits[i]],
          ["span", name],
          ["code", fields.value[i]],
        ]) {
          box.appendChild(document.createElement(tag)).textContent = text;
        }
        return box;
      });
      panel.querySelector("ol").replaceChildren(...boxes);
    }

    function show(reply) {
      reply.panels.forEach((feed, index) => {
        if (feed.picture) {
          panels[index].querySelector("div").innerHTML = feed.picture.svg[0];
          return;
        }
        if (!documents[index]) {
          fillFields(panels[index], feed);
          return;
        }
        for (const [name, data] of Object.entries(feed)) {
          documents[index].get_model_by_name(name).data = data;
        }
      });
      fillTable(reply);
    }

    function remember() {
      const query = new URLSearchParams(settings());
      history.replaceState(history.state, "", `#${id}?${query}`);
    }

    // What was refused is marked where it was written, or else in the sentence that says so.
    function mark(wrong) {
      form.classList.toggle("tlbkit-wrong", wrong);
      for (const { choices, input } of controls) {
        if (choices.length) continue;
        input.setAttribute("aria-invalid", String(wrong));
      }
    }

    async function reply() {
      const asked = settings();
      const before = (await kept(spec.scenario))[JSON.stringify(Object.values(asked))];
      if (before && (before.stage || !stages.length)) return ["kept", SAY.kept, before];
      if (!worker) prepare();
      const tell = () => say(null, SAY.starting(arrived));
      watching.add(tell);
      tell();
      try {
        const python = await worker;
        const begun = performance.now();
        const params = settings();
        const answer = await ask(python, {
          scenario: spec.scenario,
          params,
          stage: stages.length > 0,
        });
        return ["live", SAY.live(Math.round(performance.now() - begun)), answer];
      } finally {
        watching.delete(tell);
      }
    }

    // Answers the newest setting; settings passed over while Python was busy are not asked.
    async function answer() {
      if (asking) {
        again = true;
        return;
      }
      asking = true;
      form.setAttribute("aria-busy", "true");
      try {
        do {
          again = false;
          const [how, state, answer] = await reply();
          mark(Boolean(answer.error));
          if (answer.error) {
            say("refused", SAY.refused, answer.error);
          } else {
            show(answer);
            for (const stage of stages) stage.tlbkit?.load(answer.stage);
            say(how, state, answer.text);
          }
        } while (again);
        remember();
      } catch (error) {
        say("failed", SAY.failed(error.message));
      } finally {
        asking = false;
        form.removeAttribute("aria-busy");
      }
    }

    // Follows a link such as #try-mprotect?pages=512: true if it was for this explorer.
    function follow(fragment) {
      const [target, query] = fragment.replace(/^#/, "").split("?");
      if (target !== id) return;
      form.scrollIntoView();
      if (!query) return;
      for (const [name, value] of new URLSearchParams(query)) {
        const control = controls.find((c) => c.name === name);
        if (control && !control.choices.length) {
          control.input.value = value;
          continue;
        }
        const index = control ? control.choices.map(String).indexOf(value) : -1;
        if (index < 0) {
          mark(true);
          say(
            "refused",
            SAY.refused,
            control
              ? `The link asks for ${name}=${value}; allowed are ${control.choices.join(", ")}.`
              : `The link asks for ${name}, which is not a setting here.`,
          );
          return;
        }
        if (control.input.type === "checkbox") control.input.checked = index;
        else control.input.value = index;
        nameValue(control);
      }
      answer();
    }

    // Text in figures takes the page's ink, and all else its colours by day or by night;
    // setting them also repaints axes and grid.
    function paint() {
      const ink = getComputedStyle(form).getPropertyValue("--tlbkit-ink");
      const night = theme.dataset.theme === "dark";
      for (const figure of documents.filter(Boolean)) {
        for (const model of figure.all_models ?? figure._all_models.values()) {
          if (model.tags?.includes(spec.ink)) model.text_color = ink;
          else repaint(model, night);
        }
      }
    }

    const byDay = new Map(); // a model's colours as they were made
    function repaint(model, night) {
      if (!byDay.has(model)) {
        const own = COLOURS.map((name) => [name, model[name]?.value]);
        byDay.set(model, own.filter(([, colour]) => colour in spec.dark));
      }
      for (const [name, colour] of byDay.get(model)) {
        model[name] = { value: night ? spec.dark[colour] : colour };
      }
    }

    async function draw() {
      const drawn = spec.figures.map(
        (item, i) => item && Bokeh.embed.embed_item(item, panels[i]),
      );
      for (const views of await Promise.all(drawn)) {
        documents.push(views?.roots[0].model.document);
      }
      // They are pictures: nothing in them can be operated, so no key stops there.
      for (const figure of form.querySelectorAll(".tlbkit-figure > *")) figure.inert = true;
      paint();
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", ({ target }) => {
      if (target.type === "text") return; // not at every key: at Enter, or on leaving it
      nameValue(controls.find((c) => c.input === target));
      answer();
    });
    form.addEventListener("change", ({ target }) => {
      if (target.type === "text") answer();
    });

    function reset() {
      controls.forEach(({ input }, i) => {
        if (input.type === "checkbox") input.checked = first[i];
        else input.value = first[i];
      });
      controls.forEach(nameValue);
      answer();
    }

    async function link() {
      remember();
      try {
        await navigator.clipboard.writeText(location.href);
        say(null, SAY.copied);
      } catch {
        say(null, SAY.link); // a browser that does not let a page write there
      }
    }

    buttons.addEventListener("click", ({ target }) => {
      if (target.dataset.do === "reset") reset();
      if (target.dataset.do === "link") link();
    });

    // Readers that look at the form for a while, or are about to use it, find Python started.
    function foresee() {
      const early = () => {
        kept(spec.scenario);
        prepare();
      };
      for (const sign of ["focusin", "pointerenter"]) {
        form.addEventListener(sign, early, { once: true });
      }
      if (navigator.connection?.saveData) return;
      const idle = window.requestIdleCallback ?? ((act) => setTimeout(act, 200));
      let looking;
      new IntersectionObserver(([{ isIntersecting }], observer) => {
        clearTimeout(looking);
        if (!isIntersecting) return;
        looking = setTimeout(() => {
          observer.disconnect();
          idle(early);
        }, LOOKING_MS);
      }).observe(form);
    }

    return draw().then(() => {
      const state = site.live === "off" ? "off" : location.protocol === "file:" ? "file" : "built";
      say(state, SAY[state]);
      if (state === "built") {
        part("controls").disabled = false;
        buttons.disabled = false;
        foresee();
        follow(location.hash);
        addEventListener("hashchange", () => follow(location.hash));
      }
      new MutationObserver(paint).observe(theme, { attributeFilter: ["data-theme"] });
    });
  }

  const seen = {};
  for (const form of document.querySelectorAll(".tlbkit-explorer")) {
    const { scenario } = JSON.parse(form.querySelector("script").textContent);
    seen[scenario] = (seen[scenario] ?? 0) + 1;
    const number = seen[scenario] > 1 ? `-${seen[scenario]}` : "";
    if (number) form.setAttribute("aria-label", `${form.getAttribute("aria-label")} (${seen[scenario]})`);
    explorer(form, `try-${scenario}${number}`);
  }
})();
