// The login page: sends user and password, and goes on to where one wanted to be.
const element = (id) => document.getElementById(id);

// Only a path of this server.
function next() {
  const wanted = new URL(new URLSearchParams(location.search).get("next") ?? "/", location.origin);
  return wanted.origin === location.origin ? wanted.pathname + wanted.search : "/";
}

element("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ user: element("user").value, password: element("password").value });
  let message;
  try {
    const answer = await fetch("/login", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (answer.ok) return location.replace(next());
    message = answer.status === 429 ? `Too many wrong passwords. Try again in ${answer.headers.get("Retry-After")} s.` : "Wrong user or password.";
  } catch {
    message = "The server cannot be reached.";
  }
  element("error").textContent = message;
  element("error").hidden = false;
  element("password").select();
});
