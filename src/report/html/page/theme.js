// The color scheme: that of the system, light or dark. The choice is kept if the browser has storage.
const SCHEMES = ["auto", "light", "dark"];

function storedScheme() {
  try {
    const stored = localStorage.getItem("ablate-scheme");
    return SCHEMES.includes(stored) ? stored : "auto";
  } catch {
    return "auto";
  }
}

function applyScheme(scheme) {
  if (scheme === "auto") delete document.documentElement.dataset.scheme;
  else document.documentElement.dataset.scheme = scheme;
}

// Before the page is drawn.
applyScheme(storedScheme());

function setUpTheme() {
  const header = document.querySelector("body > header");
  if (!header) return;
  let scheme = storedScheme();
  const button = element("button", { type: "button", class: "scheme", id: "scheme" });
  const show = () => {
    button.textContent = `Colors: ${scheme}`;
  };
  button.addEventListener("click", () => {
    scheme = SCHEMES[(SCHEMES.indexOf(scheme) + 1) % SCHEMES.length];
    applyScheme(scheme);
    try {
      localStorage.setItem("ablate-scheme", scheme);
    } catch {
      // Without storage the choice holds for this visit.
    }
    show();
  });
  show();
  header.append(button);
}
