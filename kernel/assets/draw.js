// Draws each figure, and lets a click on a small picture do what the menu does.
document.querySelectorAll('figure > .plot').forEach(function (plot) {
  var about = JSON.parse(plot.parentNode.querySelector('script').textContent);
  Plotly.newPlot(plot, about.data, about.layout || {}, about.config || {}).then(function () {
    plot.on('plotly_click', function (event) {
      var point = event.points[0];
      var meta = point.data.meta;
      if (!meta || meta.menu === undefined) return;
      var args = plot.layout.updatemenus[meta.menu].buttons[point.pointNumber].args;
      var layout = Object.assign({}, args[1]);
      layout['updatemenus[' + meta.menu + '].active'] = point.pointNumber;
      Plotly.update(plot, args[0], layout, args[2]);
    });
  });
});
