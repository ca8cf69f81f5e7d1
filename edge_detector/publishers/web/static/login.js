// The login page: sends user and password, and goes on to where one wanted to be.
const element = (id) => document.getElementById(id);

// Only an address of this server; whole, because a path may begin with "//".
function next() {
  try {
    const wanted = new URL(new URLSearchParams(location.search).get("next") ?? "/", location.origin);
    if (wanted.origin === location.origin) return wanted.href;
  } catch {
    // no address
  }
  return "/";
}

element("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ user: element("user").value, password: element("password").value });
  let message;
  try {
    const answer = await fetch("/login", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (answer.ok) return location.replace(next());
    const text = (await answer.text()).trim();
    message = `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
  } catch {
    message = "The server cannot be reached.";
  }
  element("error").textContent = message;
  element("error").hidden = false;
  element("password").select();
});
