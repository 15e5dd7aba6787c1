// Keeps a person's page up to date. Nothing here decides anything: without it the page works by reloading.
"use strict";

(() => {
  const main = document.querySelector("main[data-live]");
  if (!main || !window.EventSource || !window.fetch) return;

  const RETRY_MS = 10000;
  let version = main.dataset.version;
  let stream = null;
  let retry = null;
  let asking = false;
  let again = false;

  // A notice is for once: it is not told again when the page is reloaded.
  if (location.search.includes("notice=")) {
    const here = new URL(location.href);
    here.searchParams.delete("notice");
    history.replaceState(null, "", here);
  }

  const isTouched = (field) => {
    if (field.type === "radio" || field.type === "checkbox") return field.checked !== field.defaultChecked;
    if (field.tagName === "SELECT") {
      const first = Array.from(field.options).findIndex((option) => option.defaultSelected);
      return field.selectedIndex !== Math.max(first, 0);
    }
    return field.type !== "hidden" && field.value !== field.defaultValue;
  };
  const isBusy = (part) =>
    Array.from(part.querySelectorAll("input, textarea, select")).some(
      (field) => field === document.activeElement || isTouched(field)
    );

  const warn = (part, words) => {
    if (part.querySelector(":scope > .stale")) return;
    const note = document.createElement("p");
    note.className = "banner is-late stale";
    note.setAttribute("role", "alert");
    const link = document.createElement("a");
    link.href = location.pathname;
    link.textContent = "Show it as it is now";
    note.append(words + " ", link, " (what you have written here will be lost).");
    part.prepend(note);
  };

  const replace = (old, fresh) => {
    for (const details of old.querySelectorAll("details[open][id]")) {
      const same = fresh.querySelector("#" + CSS.escape(details.id));
      if (same) same.open = true;
    }
    if (old.tagName === "DETAILS" && old.open) fresh.open = true;
    old.replaceWith(fresh);
  };

  // Makes a list like the fresh one, but leaves alone where somebody is at work.
  const sync = (list, freshList) => {
    const fresh = Array.from(freshList.children);
    const kept = new Set(fresh.map((part) => part.id));
    let news = 0;
    for (const old of Array.from(list.children)) {
      if (kept.has(old.id)) continue;
      if (isBusy(old)) warn(old, "This has been decided or withdrawn meanwhile.");
      else old.remove();
    }
    let place = null;
    for (const part of fresh) {
      const adopted = document.importNode(part, true);
      const old = document.getElementById(part.id);
      const here = old && old.parentElement === list ? old : null;
      if (!here) {
        adopted.classList.add("is-new");
        if (place) place.after(adopted);
        else list.prepend(adopted);
        place = adopted;
        if (!part.classList.contains("empty")) news += 1;
      } else if (here.dataset.state === part.dataset.state) {
        place = here;
      } else if (isBusy(here)) {
        warn(here, "This has changed while you were writing.");
        place = here;
      } else {
        replace(here, adopted);
        place = adopted;
        news += 1;
      }
    }
    return news;
  };

  const refresh = async () => {
    if (asking) {
      again = true;
      return;
    }
    asking = true;
    try {
      const answer = await fetch(location.pathname + location.search, { cache: "no-store", credentials: "same-origin" });
      if (!answer.ok) {
        if (answer.status >= 500) setTimeout(refresh, RETRY_MS);
        return;
      }
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const freshMain = fresh.querySelector("main[data-live]");
      if (!freshMain) return;
      let news = 0;
      for (const list of main.querySelectorAll("[data-list]")) {
        const same = fresh.getElementById(list.id);
        if (same) news += sync(list, same);
      }
      const counts = fresh.getElementById("counts");
      if (counts) document.getElementById("counts").textContent = counts.textContent;
      document.title = fresh.title;
      version = freshMain.dataset.version;
      if (news) document.getElementById("announce").textContent = "This page has been updated.";
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // the network is away: the stream will be opened again
    } finally {
      asking = false;
      if (again) {
        again = false;
        refresh();
      }
    }
  };

  const close = () => {
    clearTimeout(retry);
    if (stream) stream.close();
    stream = null;
  };
  const open = () => {
    close();
    stream = new EventSource(main.dataset.live);
    stream.addEventListener("version", (event) => {
      if (event.data !== version) refresh();
    });
    stream.addEventListener("error", () => {
      if (stream && stream.readyState === EventSource.CLOSED) {
        close();
        retry = setTimeout(open, RETRY_MS);
      }
    });
  };
  // A browser has few connections to one server: pages that nobody sees give theirs back.
  const see = () => (document.hidden ? close() : open());
  document.addEventListener("visibilitychange", see);
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });

  // Enter in a form that decides presses no button; and twice pressed is once sent.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (event.submitter && event.submitter.name === "enter") event.preventDefault();
    else if (form.getAttribute("aria-busy") === "true") event.preventDefault();
    else form.setAttribute("aria-busy", "true");
  });

  // A link to something that is folded unfolds it.
  const unfold = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  window.addEventListener("hashchange", unfold);
  unfold();
  see();
})();
