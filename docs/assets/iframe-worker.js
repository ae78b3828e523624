// Browsers start no worker for a page that is opened from the disk. There, the search runs in a hidden frame.
// As with a worker, messages are copies and arrive later.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inner = frame.contentWindow;
      inner.postMessage = (data) => {
        const copy = structuredClone(data);
        setTimeout(() => this.onmessage?.(new MessageEvent("message", { data: copy })));
      };
      const script = frame.contentDocument.createElement("script");
      script.src = url;
      script.onload = () => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      };
      script.onerror = (event) => this.onerror?.(event);
      frame.contentDocument.body.append(script);
      this.frame = frame;
    }

    postMessage(data) {
      if (this.waiting) {
        this.waiting.push(data);
      } else {
        const inner = this.frame.contentWindow;
        const copy = inner.structuredClone(data);
        setTimeout(() => inner.dispatchEvent(new inner.MessageEvent("message", { data: copy })));
      }
    }

    terminate() {
      this.frame.remove();
    }
  };
}
