// Makes each frame as high as what is in it.
document.querySelectorAll('iframe.html').forEach(function (frame) {
  function fit() {
    var page = frame.contentDocument;
    if (page && page.body) frame.style.height = Math.min(page.documentElement.offsetHeight + 2, 1200) + 'px';
  }
  frame.addEventListener('load', fit);
  fit();
});
