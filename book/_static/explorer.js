// Brings the explorers of a page to life.
//
// Each <form class="tlbkit-explorer"> is complete HTML for one setting; here its figures
// are drawn, its controls turned on, and later settings answered by tlbkit itself,
// which runs in a worker that starts when a control is first moved.
"use strict";

(() => {
  const site = document.currentScript.dataset; // which files make the site live
  const base = document.currentScript.src;
  const asset = (name) => new URL(name, base).href;
  const theme = document.documentElement;

  const SAY = {
    built: "Computed when this page was built. Move a control and tlbkit runs here, in the page.",
    off: "Computed when this page was built. This copy of the site was built without live Python, so the controls are off.",
    file: "Computed when this page was built. The controls need the page to come from a web server: run “python -m http.server” in the site’s folder.",
    starting: "Starting Python in this page: about 13 MB, once, then a few seconds…",
    answered: (ms) => `Computed in this page by tlbkit, in ${ms} ms.`,
    failed: (why) => `Python cannot answer in this page: ${why}. The numbers shown are of the last setting that was answered; move a control to try again.`,
    refused: "The numbers shown are of the last setting that was answered.",
  };

  // ---- One worker for all explorers of the page ---------------------------------

  const waiting = new Map(); // request id -> the promise of its reply
  let worker = null; // promise of a started worker
  let requests = 0;

  function start() {
    const python = new Worker(asset(site.worker), { type: "module" });
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
        } else {
          waiting.get(data.id).resolve(data.reply);
          waiting.delete(data.id);
        }
      };
      python.postMessage({
        open: { python: asset(site.python), package: asset(site.package) },
      });
    });
  }

  function ask(python, request) {
    const id = ++requests;
    python.postMessage({ id, request: JSON.stringify(request) });
    return new Promise((resolve, reject) => {
      waiting.set(id, { resolve, reject });
    }).then(JSON.parse);
  }

  // ---- One explorer -------------------------------------------------------------

  function explorer(form, id) {
    const spec = JSON.parse(form.querySelector("script").textContent);
    const part = (name) => form.querySelector(`.tlbkit-${name}`);
    const panels = [...part("figures").children]; // Bokeh's figures, and boxes of text
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

    function say(state, text) {
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
        line(header.map((text, i) => cell("th", text, i, "col"))),
      );
      table.tBodies[0].replaceChildren(
        ...rows.map(([first, ...rest]) =>
          line([
            cell("th", first, 0, "row"),
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

    // Answers the newest setting; settings passed over while Python was busy are not asked.
    async function answer() {
      if (asking) {
        again = true;
        return;
      }
      asking = true;
      form.setAttribute("aria-busy", "true");
      try {
        if (!worker) say(SAY.starting);
        const python = await (worker ??= start());
        do {
          again = false;
          const begun = performance.now();
          const reply = await ask(python, {
            scenario: spec.scenario,
            params: settings(),
            stage: stages.length > 0,
          });
          if (reply.error) {
            say(SAY.refused, reply.error);
          } else {
            show(reply);
            for (const stage of stages) stage.tlbkit?.load(reply.stage);
            say(SAY.answered(Math.round(performance.now() - begun)), reply.text);
          }
        } while (again);
        remember();
      } catch (error) {
        say(SAY.failed(error.message));
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
          say(
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

    // Text in figures takes the page's ink; setting it also repaints axes and grid.
    function paint() {
      const ink = getComputedStyle(form).getPropertyValue("--tlbkit-ink");
      for (const figure of documents.filter(Boolean)) {
        for (const model of figure.all_models ?? figure._all_models.values()) {
          if (model.tags?.includes(spec.ink)) model.text_color = ink;
        }
      }
    }

    async function draw() {
      const drawn = spec.figures.map(
        (item, i) => item && Bokeh.embed.embed_item(item, panels[i]),
      );
      for (const views of await Promise.all(drawn)) {
        documents.push(views?.roots[0].model.document);
      }
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

    return draw().then(() => {
      const state = site.live === "off" ? "off" : location.protocol === "file:" ? "file" : "built";
      say(SAY[state]);
      if (state === "built") {
        part("controls").disabled = false;
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
    explorer(form, `try-${scenario}${number}`);
  }
})();
