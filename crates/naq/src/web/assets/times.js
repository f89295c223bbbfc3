// Times in the time zone of the viewer. Without this script they are in UTC.

const local = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "long" });

export function showLocalTimes() {
  for (const time of document.querySelectorAll("time.local")) time.textContent = local.format(new Date(time.dateTime));
  for (const title of document.querySelectorAll("[data-local]")) title.textContent = title.dataset.local;
}
