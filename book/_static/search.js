// Shows what Pagefind finds in the book: what explains a thing first, then where it is looked up.

const SHOWN = 20;

// As many letters of a word are its own, whatever its ending.
const BEGINNING = 4;

// Words of a question that say nothing of what is asked.
const SILENT = new Set(
  "a an and are be can do does for from has have how i if in is it many much of on or should that the there this to what when where which who why with".split(" "),
);

// What people call a thing that the book calls otherwise.
const SAME = {
  shootdown: "flush",
  shootdowns: "flush",
  invalidate: "TLBI",
  invalidation: "TLBI",
  permission: "protection",
  hugepage: "huge page",
  hugepages: "huge page",
  cow: "copy on write",
  ipi: "broadcast",
  barrier: "DSB",
};

const field = document.querySelector(".tlbkit-search input");
const said = document.querySelector(".tlbkit-found");
const list = document.querySelector(".tlbkit-results");
const root = document.documentElement.dataset.content_root ?? "./";

const words = (query) => query.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? [];

// Returns what to look for: the words that matter, and the same in the book's own words.
function asked(query) {
  const telling = words(query).filter((word) => !SILENT.has(word));
  const all = telling.length ? telling : words(query);
  const own = all.map((word) => SAME[word] ?? word);
  return [...new Set([all.join(" "), own.join(" ")])];
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  return Object.assign(made, attributes);
}

function entry({ url, meta, excerpt, sub_results: parts }) {
  const line = document.createElement("li");
  const title = element("h2", "");
  title.append(element("a", meta.title, { href: url }));
  const kind = element("span", ` ${meta.kind}`, { className: "tlbkit-kind" });
  title.append(kind);
  line.append(title, element("p", "", { innerHTML: excerpt })); // escaped, but for its <mark>
  const below = parts.filter((part) => part.url !== url).slice(0, 3);
  if (below.length) {
    const places = document.createElement("ul");
    for (const part of below) {
      const place = document.createElement("li");
      place.append(element("a", part.title, { href: part.url }));
      places.append(place);
    }
    line.append(places);
  }
  return line;
}

// A chapter stands before the reference, and one that has the word in its title before others.
function rank(page, query) {
  const title = new Set(words(page.meta.title));
  const named = query.filter((word) => title.has(word)).length;
  return (page.meta.kind === "chapter" ? 1000 : 0) + page.score * (1 + named);
}

// Tells whether a page has a word that begins as one of the query's: where no page has a word,
// Pagefind takes ever shorter beginnings of it.
function holds(page, query) {
  const beginnings = query.map((word) => word.slice(0, BEGINNING)).join("|"); // letters, digits, _
  const held = new RegExp(`(?<![\\p{L}\\p{N}])(${beginnings})`, "iu");
  return held.test(`${page.meta.title} ${page.content}`);
}

async function find(pagefind, query) {
  const found = new Map();
  for (const wanted of asked(query)) {
    for (const { id, score, data } of (await pagefind.search(wanted)).results) {
      if (!found.has(id)) found.set(id, { score, data });
    }
  }
  const pages = await Promise.all(
    [...found.values()].map(async ({ score, data }) => ({ ...(await data()), score })),
  );
  const telling = asked(query).flatMap(words);
  return pages
    .filter((page) => holds(page, telling))
    .sort((a, b) => rank(b, telling) - rank(a, telling));
}

async function search(query) {
  try {
    said.textContent = "Searching…";
    const pagefind = await import(new URL(`${root}pagefind/pagefind.js`, location.href));
    await pagefind.init();
    const pages = await find(pagefind, query);
    said.textContent = `${pages.length || "No"} page${pages.length === 1 ? "" : "s"} for “${query}”.`;
    list.replaceChildren(...pages.slice(0, SHOWN).map(entry));
  } catch (error) {
    const why = location.protocol === "file:"
      ? "the site has to come from a web server: run “python -m http.server” in its folder"
      : error.message;
    said.textContent = `The search does not work: ${why}.`;
  }
}

const query = new URLSearchParams(location.search).get("q") ?? "";
field.value = query;
field.focus();
if (query.trim()) search(query);
