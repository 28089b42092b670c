function setUpPage() {
  setUpTheme();
  setUpTables();
  setUpPlots();
  setUpGraph();
  setUpAnswers();
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", setUpPage);
else setUpPage();
