// Letters: messages to one person, who gets them at once or when the tab is open again. They come through the mailbox of
// the user, that is, as publications of a channel that the server subscribed us to.

const LETTERS_MAX = 50;

/** Shows letters, and sends them. `parts`: { section, list, dismiss, dialog, form, title, text, cancel, problem }. */
export class Letters {
  #client;
  #parts;
  #line;
  #token;
  #shown = new Set();
  #to = null;
  /** The same for every attempt to send one letter. */
  #key = "";

  /** `line(letter, waited)` makes the element of one letter; `token()` says who writes. */
  constructor(client, parts, line, token) {
    this.#client = client;
    this.#parts = parts;
    this.#line = line;
    this.#token = token;
    client.addEventListener("personal", ({ detail }) => this.#arrived(detail));
    parts.dismiss.addEventListener("click", () => {
      parts.list.replaceChildren();
      parts.section.hidden = true;
    });
    parts.cancel.addEventListener("click", () => parts.dialog.close());
    parts.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
  }

  /** Opens the dialog for a letter to this person. */
  write(user, name) {
    this.#to = user;
    this.#key = crypto.randomUUID();
    this.#parts.title.textContent = `A letter to ${name}`;
    this.#parts.problem.textContent = "";
    this.#parts.text.value = "";
    this.#parts.dialog.showModal();
  }

  async #send() {
    const { text, dialog, problem } = this.#parts;
    if (!text.value.trim()) return;
    try {
      const response = await fetch("/demo/letter", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ token: this.#token(), user: this.#to, text: text.value, key: this.#key }),
      });
      if (!response.ok) throw new Error((await response.text()) || `error ${response.status}`);
      dialog.close();
    } catch (error) {
      problem.textContent = `Not sent: ${error.message}.`;
    }
  }

  /** A letter can come twice, but with the same id. What is shown is acknowledged, so that it does not come again. */
  #arrived({ publication, replayed }) {
    const { data, offset, tags } = publication;
    const id = tags?.id;
    if (offset) this.#client.request("rpc", { method: "mailbox.ack", data: { offset } }).catch(() => {});
    if (typeof data?.text !== "string" || (id && this.#shown.has(id))) return;
    if (id) this.#shown.add(id);
    const { list, section } = this.#parts;
    list.append(this.#line(data, replayed));
    while (list.childElementCount > LETTERS_MAX) list.firstElementChild.remove();
    section.hidden = false;
  }
}
