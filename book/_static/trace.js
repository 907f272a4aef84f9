// Brings the desk for traces to life: files that a reader drops are replayed by tlbkit in
// a worker of their own, which Stop ends. Nothing is sent anywhere.
"use strict";

(() => {
  const site = document.currentScript.dataset;
  const base = document.currentScript.src;
  const asset = (name) => new URL(name, base).href;
  const theme = document.documentElement;

  const SAY = {
    ready: "Nothing leaves your machine: the trace is replayed by Python in this page.",
    off: "This copy of the site was built without live Python. Replay the files on your machine: python3 -m tlbkit trace FILE… --commits",
    file: "The page must come from a web server to replay a trace: run “python -m http.server” in the site’s folder.",
    none: "Choose, drop or paste a trace first.",
    starting: "Starting Python in this page: about 13 MB, once, then a few seconds…",
    replaying: "Replaying the trace on both kernels…",
    stopped: "Stopped.",
    commits: (done, of, commit) => `Asking commit ${commit}: ${done} of ${of} are done.`,
    answered: (seconds, text) => `${text} Replayed in ${seconds.toFixed(1)} s.`,
    failed: (why) => `Python cannot answer in this page: ${why}`,
  };

  const base64 = (blob) =>
    new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(blob);
    });

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).blob();
  }

  function desk(form) {
    const { example } = JSON.parse(form.querySelector("script").textContent);
    const part = (selector) => form.querySelector(selector);
    const button = (what) => part(`[data-do=${what}]`);
    const frame = part("iframe");
    const progress = part("progress");
    const files = new Map(); // name -> Blob
    let python = null; // the worker, once it was started
    let ready = null; // promise that it can answer

    const say = (text, wrong = false) => {
      part("[role=status]").textContent = text;
      part("[role=status]").classList.toggle("wrong", wrong);
    };

    function list() {
      part("ul").replaceChildren(
        ...[...files].map(([name, blob]) => {
          const item = document.createElement("li");
          const drop = document.createElement("button");
          drop.type = "button";
          drop.textContent = "Remove";
          drop.setAttribute("aria-label", `Remove ${name}`);
          drop.onclick = () => {
            files.delete(name);
            list();
          };
          item.append(`${name}, ${blob.size.toLocaleString("en")} bytes `, drop);
          return item;
        }),
      );
    }

    function add(chosen) {
      for (const file of chosen) files.set(file.name, file);
      list();
      say(SAY.ready);
    }

    function start() {
      python = new Worker(asset(site.worker), { type: "module" });
      ready = new Promise((resolve, reject) => {
        const fail = (why) => reject(new Error(SAY.failed(why)));
        python.onerror = (event) => fail(event.message || "the worker did not load");
        python.onmessage = ({ data }) => {
          if (data.ready) resolve();
          else if (data.failed) fail(data.failed);
        };
      });
      python.postMessage({
        open: {
          python: asset(site.python),
          snapshot: asset(site.snapshot),
          package: asset(site.package),
          bytes: Number(site.bytes),
          door: "tlbkit.show.trace_desk",
        },
      });
    }

    function end() {
      python?.terminate();
      python = ready = null;
    }

    function ask(request) {
      return new Promise((resolve, reject) => {
        python.onmessage = ({ data }) => {
          if (data.failed) {
            reject(new Error(SAY.failed(data.failed)));
          } else if (data.progress) {
            const [done, of, commit] = data.progress;
            progress.max = of;
            progress.value = done;
            progress.hidden = false;
            say(SAY.commits(done, of, commit));
          } else if (data.reply) {
            resolve(JSON.parse(data.reply));
          }
        };
        python.postMessage({ id: 1, request: JSON.stringify(request), told: true });
      });
    }

    const saves = [];
    function offer(kind, text, type) {
      const address = URL.createObjectURL(new Blob([text], { type }));
      saves.push(address);
      const link = part(`[data-save=${kind}]`);
      link.href = address;
      link.download = `trace.${kind}`;
    }

    function fit() {
      const page = frame.contentDocument?.documentElement;
      if (page) frame.style.height = `${page.scrollHeight + 4}px`;
    }

    function show(reply) {
      frame.hidden = false;
      frame.srcdoc = reply.page;
      saves.splice(0).forEach((address) => URL.revokeObjectURL(address));
      offer("html", reply.page, "text/html");
      offer("json", JSON.stringify(reply.json, null, 2), "application/json");
      part(".tlbkit-saved").hidden = false;
    }

    const busy = (on) => {
      form.setAttribute("aria-busy", String(on));
      part("[type=submit]").disabled = on;
      button("stop").disabled = !on;
      if (button("example")) button("example").disabled = on;
      progress.hidden = true;
    };

    async function replay() {
      const given = new Map(files);
      const pasted = form.elements.pasted.value;
      if (pasted.trim()) given.set("pasted text", new Blob([pasted]));
      if (!given.size) {
        say(SAY.none, true);
        return;
      }
      busy(true);
      const stopped = new Promise((_, reject) => {
        button("stop").onclick = () => reject(new Error(SAY.stopped));
      });
      const unlessStopped = (promise) => Promise.race([promise, stopped]);
      try {
        if (!python) {
          say(SAY.starting);
          start();
        }
        await unlessStopped(ready);
        const begun = performance.now();
        say(SAY.replaying);
        const contents = {};
        for (const [name, blob] of given) contents[name] = await base64(blob);
        // The two kernels are answered at once; the commits follow where they are asked.
        for (const commits of form.elements.commits.checked ? [false, true] : [false]) {
          const reply = await unlessStopped(
            ask({
              files: contents,
              touch: form.elements.touch.value,
              cpu: form.elements.cpu.value,
              commits,
            }),
          );
          if (reply.error) {
            say(reply.error, true);
            break;
          }
          show(reply);
          say(SAY.answered((performance.now() - begun) / 1000, reply.text));
        }
      } catch (error) {
        end(); // the next replay starts another worker
        say(error.message, error.message !== SAY.stopped);
      } finally {
        busy(false);
      }
    }

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      replay();
    });
    form.elements.files.addEventListener("change", ({ target }) => {
      add(target.files);
      target.value = "";
    });
    for (const kind of ["dragover", "drop"]) {
      form.addEventListener(kind, (event) => {
        event.preventDefault();
        if (kind === "drop") add(event.dataTransfer.files);
      });
    }
    button("example")?.addEventListener("click", async () => {
      files.clear();
      for (const [name, data] of Object.entries(example)) files.set(name, await unpacked(data));
      list();
      replay();
    });
    frame.addEventListener("load", fit);
    addEventListener("resize", fit);

    const paint = () => {
      frame.style.colorScheme = theme.dataset.theme === "dark" ? "dark" : "light";
    };
    new MutationObserver(paint).observe(theme, { attributeFilter: ["data-theme"] });
    paint();

    const state = site.live === "off" ? "off" : location.protocol === "file:" ? "file" : "ready";
    say(SAY[state]);
    part("fieldset").disabled = state !== "ready";
  }

  document.querySelectorAll(".tlbkit-trace").forEach(desk);
})();
