// What the theme adds after the page has loaded, made fit for keyboards and screen readers.
const improve = () => {
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap, math[display=block]"))
    wide.tabIndex = 0; // so that keys can scroll it
  for (const buttons of document.querySelectorAll("nav.md-code__nav"))
    buttons.setAttribute("role", "none"); // a button is no landmark
  for (const nav of document.querySelectorAll("nav.md-nav[aria-labelledby]")) {
    const label = document.getElementById(nav.getAttribute("aria-labelledby"));
    if (label?.textContent.trim()) continue;
    const link = nav.parentElement.querySelector("a .md-ellipsis");
    nav.removeAttribute("aria-labelledby");
    nav.setAttribute("aria-label", link?.textContent.trim() || "Pages");
  }
};

improve();
new MutationObserver(improve).observe(document.body, { childList: true, subtree: true });
