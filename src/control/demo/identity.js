// Who we are, kept so that a reload, and a tab that is opened again, is the same person, while two open tabs are two.
//
// A tab keeps its identity in its session storage. All identities of this browser are in its local storage; a new tab
// takes the one that was used last and that no open tab holds. Holding is a Web Lock: it ends with the tab.

const KNOWN_MAX = 10;

export class Identity {
  user = "";
  name = "";
  token = "";

  /** The identity of this tab; `randomName` names a new one. */
  static async take(randomName) {
    const identity = new Identity();
    const name = sessionStorage.getItem("name");
    const token = sessionStorage.getItem("token");
    if (token) {
      Object.assign(identity, { user: sessionStorage.getItem("user") ?? "", name, token });
      hold(identity.user, {});
      return identity;
    }
    for (const known of read()) {
      if (!(await hold(known.user, { ifAvailable: true }))) continue;
      return Object.assign(identity, known, name ? { name } : {});
    }
    identity.name = name ?? randomName();
    return identity;
  }

  /** What the server answered. */
  keep({ user, name, token }) {
    const isNew = user !== this.user;
    Object.assign(this, { user, name, token });
    for (const [key, value] of Object.entries({ user, name, token })) sessionStorage.setItem(key, value);
    const others = read().filter((known) => known.user !== user);
    localStorage.setItem("people", JSON.stringify([{ user, name, token }, ...others].slice(0, KNOWN_MAX)));
    if (isNew) hold(user, {});
  }
}

function read() {
  try {
    const known = JSON.parse(localStorage.getItem("people") ?? "[]");
    return Array.isArray(known) ? known.filter((one) => one?.user && one.token) : [];
  } catch {
    return [];
  }
}

/** Resolves once the lock is held (true), or at once if it is asked for only if it is free and it is not (false). */
function hold(user, options) {
  if (!navigator.locks) return Promise.resolve(false);
  return new Promise((resolve) => {
    navigator.locks.request(`millpond ${user}`, options, (lock) => {
      resolve(lock !== null);
      // Until the tab is closed.
      return lock && new Promise(() => {});
    });
  });
}
