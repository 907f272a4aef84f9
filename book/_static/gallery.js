// The gallery: a list that can be narrowed, whose entries open what was made of them when
// the site was built. What an entry opens is loaded when it is opened, from beside this file.
"use strict";

(() => {
  const films = new URL("gallery/", document.currentScript.src);

  for (const form of document.querySelectorAll(".tlbkit-gallery")) {
    const filters = form.querySelector("fieldset");
    const items = [...form.querySelectorAll("li")];
    const buttons = new Map(items.map((item) => [item.firstChild.dataset.open, item.firstChild]));
    const opened = form.querySelector(".tlbkit-opened");
    const status = form.querySelector("[role=status]");
    const { name, history: past, ...menus } = Object.fromEntries(
      [...filters.elements].map((one) => [one.name, one]),
    );

    function narrow() {
      const words = name.value.toLowerCase().split(/\s+/);
      let left = 0;
      for (const item of items) {
        const said = item.firstChild.textContent.toLowerCase();
        const fits =
          words.every((word) => said.includes(word)) &&
          (!past.checked || item.dataset.history) &&
          Object.entries(menus).every(
            ([key, menu]) => !menu.value || item.dataset[key].split("|").includes(menu.value),
          );
        item.hidden = !fits;
        left += fits;
      }
      status.textContent = `${left} of ${items.length} points.`;
    }

    async function open(which, quietly) {
      const button = buttons.get(which);
      for (const one of buttons.values()) one.removeAttribute("aria-current");
      button.setAttribute("aria-current", "true");
      if (!quietly) history.replaceState(history.state, "", `#${which}`);
      try {
        const answer = await fetch(new URL(`${which}.html`, films));
        if (!answer.ok) throw new Error(answer.statusText);
        opened.innerHTML = await answer.text();
      } catch (problem) {
        opened.textContent = `This point could not be loaded: ${problem.message}.`;
        return;
      }
      globalThis.tlbkitStage?.all();
      if (!quietly) opened.scrollIntoView({ block: "nearest" });
    }

    // An address that names a point, or a moment of its replay, opens it.
    function follow() {
      const [which] = location.hash.slice(1).split("?");
      if (buttons.has(which)) open(which, true);
      return buttons.has(which);
    }

    for (const [which, button] of buttons) {
      button.disabled = false;
      button.addEventListener("click", () => open(which));
    }
    for (const control of [name, past, ...Object.values(menus)]) {
      control.addEventListener("input", narrow);
    }
    filters.disabled = false;
    narrow();
    if (follow()) opened.scrollIntoView();
    addEventListener("hashchange", follow);
  }
})();
