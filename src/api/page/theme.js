// Light or dark: as the system has it, until someone chooses. Runs before the page is drawn.

const KEY = "hesper.theme";
const THEMES = ["system", "light", "dark"];
const NAMES = { system: "as the system", light: "light", dark: "dark" };

function stored() {
  try {
    const theme = localStorage.getItem(KEY);
    return THEMES.includes(theme) ? theme : "system";
  } catch {
    // Storage may be turned off: then the choice lasts as long as the page.
    return "system";
  }
}

let theme = stored();

function apply() {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

/** Makes `button` step through the themes; its label names the one in use. */
export function attach(button) {
  const label = () => {
    button.querySelector("[data-label]").textContent = `Theme: ${NAMES[theme]}`;
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // As above.
    }
    apply();
    label();
  });
  label();
}

apply();
