// On the front page that is served while the rest of the book is built: says so, and when not.
"use strict";

(() => {
  const wait = document.createElement("p");
  wait.setAttribute("role", "status");
  wait.className = "tlbkit-front";
  wait.textContent = "The other pages are being built; this one works already.";
  document.body.append(wait);

  const look = setInterval(async () => {
    const { ok } = await fetch("glossary.html", { method: "HEAD", cache: "no-store" });
    if (!ok) return;
    clearInterval(look);
    const link = document.createElement("a");
    link.href = location.href.split("#")[0];
    link.textContent = "All pages are there: load this one again";
    wait.replaceChildren(link);
  }, 5000);
})();
