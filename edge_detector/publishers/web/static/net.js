// Questions to the server.
const TIMEOUT_MS = 3000;

export async function ask(path, options = {}) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
  if (answer.status === 401) location.replace(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  if (!answer.ok) throw Object.assign(new Error(`${path}: ${(await answer.text()).trim()}`), { status: answer.status });
  return answer;
}

export async function askJson(path) {
  return (await ask(path)).json();
}

export async function post(path, document) {
  const answer = await ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(document) });
  return answer.json();
}
