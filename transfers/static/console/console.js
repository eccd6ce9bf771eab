// What the pages do beyond links and forms: times in the reader's zone, whether what is shown is live, copying.
"use strict";

(() => {
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
  const short = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  const near = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });
  const units = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

  function relative(when) {
    const seconds = (when - Date.now()) / 1000;
    if (Math.abs(seconds) < 10) return "now";
    const [unit, length] = units.find(([, length]) => Math.abs(seconds) >= length);
    return near.format(Math.trunc(seconds / length), unit);
  }

  function tell(time) {
    const when = new Date(time.dateTime);
    const text = "clock" in time.dataset ? short.format(when) : relative(when);
    if (time.textContent !== text) time.textContent = text;
    const title = exact.format(when);
    if (time.title !== title) time.title = title;
  }

  function tellAll(within) {
    within.querySelectorAll("time").forEach(tell);
  }

  // Where a part is replaced, whoever was in it with the keyboard stays where they were.
  let focused = "";

  function live(word, tone) {
    const mark = document.getElementById("live");
    if (!mark) return;
    mark.hidden = false;
    mark.className = `live ${tone}`;
    const words = mark.querySelector(".live-word");
    if (words && !mark.querySelector("a")) words.textContent = word;
  }

  const SILENCE = "The server does not answer. Try again in a moment.";
  let complaint = null;

  function say(sentence) {
    complaint = document.createElement("p");
    complaint.className = "message error";
    complaint.textContent = sentence;
    document.getElementById("said").replaceChildren(complaint);
  }

  // What a server says that refuses: in JSON, or in plain text; its pages are for who opens them.
  function refusal(answer) {
    const kind = answer.getResponseHeader("Content-Type") || "";
    if (kind.startsWith("application/json")) {
      try {
        const { detail } = JSON.parse(answer.responseText);
        if (detail) return detail;
      } catch { /* a proxy's, and none of ours */ }
    }
    if ([502, 503, 504].includes(answer.status)) return SILENCE;
    if (kind.startsWith("text/plain")) return answer.responseText;
    return `The server refused it (${answer.status}). Load this page anew, then try again.`;
  }

  function isElsewhere({ xhr, pathInfo }) {
    return new URL(xhr.responseURL).pathname !== new URL(pathInfo.finalRequestPath, location).pathname;
  }

  document.addEventListener("DOMContentLoaded", () => {
    tellAll(document);
    setInterval(() => tellAll(document), 10000);
    const body = document.body;
    body.addEventListener("htmx:wsConnecting", () => live("Connecting", "waiting"));
    body.addEventListener("htmx:wsOpen", () => live("Live", "on"));
    body.addEventListener("htmx:wsClose", () => live("Not live, trying again", "off"));
    body.addEventListener("htmx:wsError", () => live("Not live, trying again", "off"));
    body.addEventListener("htmx:wsBeforeMessage", () => { focused = document.activeElement ? document.activeElement.id : ""; });
    body.addEventListener("htmx:wsAfterMessage", () => {
      tellAll(document);
      const before = focused && document.getElementById(focused);
      if (before && document.activeElement === body) before.focus();
    });
    body.addEventListener("htmx:afterSwap", () => tellAll(document));
    body.addEventListener("htmx:responseError", (event) => say(refusal(event.detail.xhr)));
    body.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful && complaint) complaint.remove(); });
    body.addEventListener("htmx:sendError", () => say(SILENCE));
    body.addEventListener("htmx:beforeSwap", (event) => {
      if (!isElsewhere(event.detail)) return;
      event.preventDefault(); // it led to the login page, and so does this page
      location.reload();
    });
    body.addEventListener("click", (event) => {
      const button = event.target.closest(".copy");
      if (!button) return;
      const text = document.getElementById(button.dataset.copy).textContent;
      navigator.clipboard.writeText(text).then(() => { button.textContent = "Copied"; });
    });
  });
})();
