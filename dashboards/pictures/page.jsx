// SPDX-License-Identifier: Apache-2.0
// A dashboard's JSON and the answers to its queries, drawn by Grafana's own components. What Grafana's
// server and application do between the two is done here as far as these dashboards need it.

import '@fontsource-variable/inter';
import {
  FieldColorModeId,
  FieldType,
  ThemeContext,
  applyFieldOverrides,
  cacheFieldDisplayNames,
  createTheme,
  dateTime,
  getDisplayValueAlignmentFactors,
  getFieldDisplayValues,
  getValueFormat,
  getValueFormats,
  standardFieldConfigEditorRegistry,
  standardTransformers,
  standardTransformersRegistry,
  toDataFrame,
  transformDataFrame,
} from '@grafana/data';
import {
  BarGauge,
  BigValue,
  GlobalStyles,
  PanelChrome,
  TimeSeries,
  VizRepeater,
} from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { useLayoutEffect } from 'react';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';

const GAP = 8;
const UNIT = 30; // what Grafana's grid has for one step of height

const same = (value) => value;
const properties = ['unit', 'min', 'max', 'decimals', 'noValue', 'thresholds', 'mappings', 'color'];
const custom = [
  ...['drawStyle', 'lineWidth', 'fillOpacity', 'showPoints', 'stacking', 'lineInterpolation'],
  ...['pointSize', 'spanNulls', 'axisPlacement', 'width', 'cellOptions', 'align', 'hidden'],
  'filterable',
];

// The options that panels of these dashboards have for a field, by their places in its configuration.
standardFieldConfigEditorRegistry.setInit(() => [
  ...properties.map((id) => ({ id, path: id, name: id })),
  ...custom.map((path) => ({ id: `custom.${path}`, path, name: path, isCustom: true })),
].map((each) => ({ ...each, process: same, override: same, shouldApply: () => true, settings: {} })));

standardTransformersRegistry.setInit(() =>
  [...new Set(Object.values(standardTransformers))].map((transformation) => ({
    ...{ id: transformation.id, name: transformation.name },
    transformation: () => Promise.resolve(transformation),
  }))
);

const milliseconds = (seconds) => Math.round(Number(seconds) * 1000);

function legend(target, labels) {
  return (target.legendFormat ?? '').replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? '');
}

/** As Grafana's data source for Prometheus makes frames of an answer. */
function framesOf(target, series, step, several) {
  if (target.format === 'table') {
    const names = [...new Set(series.flatMap((each) => Object.keys(each.metric)))].sort();
    const value = several ? `Value #${target.refId}` : 'Value';
    return [
      toDataFrame({
        refId: target.refId,
        fields: [
          { name: 'Time', type: FieldType.time, values: series.map((each) => milliseconds(each.value[0])) },
          ...names.map((name) => ({
            ...{ name, type: FieldType.string },
            values: series.map((each) => each.metric[name] ?? ''),
          })),
          { name: value, type: FieldType.number, values: series.map((each) => Number(each.value[1])) },
        ],
      }),
    ];
  }
  return series.map((each) => {
    const points = each.values ?? [each.value];
    return toDataFrame({
      refId: target.refId,
      fields: [
        {
          ...{ name: 'Time', type: FieldType.time, config: { interval: step * 1000 } },
          values: points.map(([time]) => milliseconds(time)),
        },
        {
          ...{ name: 'Value', type: FieldType.number, labels: each.metric },
          config: { displayNameFromDS: legend(target, each.metric) },
          values: points.map(([, value]) => Number(value)),
        },
      ],
    });
  });
}

async function prepare(panel, answers, step, theme) {
  const targets = panel.targets ?? [];
  const frames = targets.flatMap((target) =>
    framesOf(target, answers[target.refId], step, targets.length > 1)
  );
  const transformed = await lastValueFrom(transformDataFrame(panel.transformations ?? [], frames));
  const { unit } = panel.fieldConfig.defaults;
  if (!unit.startsWith('count:') && !getValueFormats().some(({ submenu }) => submenu.some(({ value }) => value === unit))) {
    throw new Error(`${panel.title}: Grafana has no unit ${unit}`);
  }
  const data = applyFieldOverrides({
    ...{ data: transformed, fieldConfig: panel.fieldConfig, theme, timeZone: 'utc' },
    replaceVariables: same,
  });
  cacheFieldDisplayNames(data);
  return data;
}

function displays({ panel, data, theme }, sparkline) {
  return getFieldDisplayValues({
    ...{ data, theme, sparkline, timeZone: 'utc', replaceVariables: same },
    ...{ fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions },
  });
}

const empty = (data) => data.every((frame) => frame.length === 0);

function Stat({ width, height, timeRange, ...rest }) {
  const { panel, theme } = rest;
  const [value] = displays(rest, true);
  const course = panel.options.graphMode !== 'none' && value.sparkline;
  const sparkline = course ? { ...course, timeRange } : undefined;
  return (
    <BigValue
      {...{ width, height, theme, sparkline, value: value.display, count: 1 }}
      {...panel.options}
    />
  );
}

function Bars({ width, height, ...rest }) {
  const { panel, data, theme } = rest;
  const { orientation, displayMode, valueMode, showUnfilled, text } = panel.options;
  return (
    <VizRepeater
      {...{ width, height, orientation, source: data, renderCounter: 0, itemSpacing: 8 }}
      minVizHeight={16}
      maxVizHeight={panel.options.maxVizHeight}
      getValues={() => displays(rest, false)}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, alignmentFactors, ...size }) => (
        <BarGauge
          {...{ theme, alignmentFactors, orientation, displayMode, showUnfilled, text }}
          {...{ width: size.width, height: size.height, field: value.field, value: value.display }}
          display={value.view?.getFieldDisplayProcessor(value.colIndex)}
          valueDisplayMode={valueMode}
          itemSpacing={8}
        />
      )}
    />
  );
}

/** Events as Grafana marks them: a dashed line where one begins, and its time shaded. */
function Events({ config, events, theme }) {
  useLayoutEffect(() => {
    config.addHook('draw', (plot) => {
      const { ctx, bbox } = plot;
      const bottom = bbox.top + bbox.height;
      ctx.save();
      for (const { begin, end, iconColor } of events) {
        const left = Math.max(plot.valToPos(begin, 'x', true), bbox.left);
        const right = Math.min(plot.valToPos(end, 'x', true), bbox.left + bbox.width);
        if (left > right) continue;
        ctx.fillStyle = ctx.strokeStyle = theme.visualization.getColorByName(iconColor);
        ctx.globalAlpha = 0.1;
        ctx.fillRect(left, bbox.top, right - left, bbox.height);
        ctx.globalAlpha = 1;
        ctx.fillRect(left, bottom, right - left, 4);
        ctx.beginPath();
        ctx.moveTo(left - 5, bottom + 6);
        ctx.lineTo(left + 5, bottom + 6);
        ctx.lineTo(left, bottom);
        ctx.fill();
        ctx.lineWidth = 2;
        ctx.setLineDash([5, 5]);
        ctx.beginPath();
        ctx.moveTo(left, bbox.top);
        ctx.lineTo(left, bottom);
        ctx.stroke();
      }
      ctx.restore();
    });
  }, [config]);
  return null;
}

function Lines({ panel, data, width, height, timeRange, events, theme }) {
  return (
    <TimeSeries
      {...{ width, height, timeRange, frames: data, timeZone: 'utc' }}
      legend={panel.options.legend}
      options={panel.options}
    >
      {(config) => <Events {...{ config, events, theme }} />}
    </TimeSeries>
  );
}

function Rows({ panel, data, width, height }) {
  return (
    <TableNG
      {...{ width, height, data: data[0], sortBy: panel.options.sortBy }}
      cellHeight={panel.options.cellHeight}
      enableVirtualization={false}
      showTypeIcons={false}
    />
  );
}

/** The numbers of packets in each bucket, from those up to each upper bound; the lowest bucket first. */
function buckets(data) {
  const bound = ({ fields: [, { labels }] }) => Number(labels.le.replace('+Inf', 'Infinity'));
  const sorted = [...data].sort((one, other) => bound(one) - bound(other));
  const rows = sorted.map((frame, index) => {
    const below = index ? sorted[index - 1].fields[1].values : [];
    const counts = frame.fields[1].values.map((value, at) => Math.max(value - (below[at] ?? 0), 0));
    return { bound: bound(frame), times: frame.fields[0].values, counts };
  });
  const most = Math.max(...rows.flatMap(({ counts }) => counts));
  const used = rows.map(({ counts }) => counts.some((count) => count > most / 1000));
  return { most, rows: rows.slice(used.indexOf(true), used.lastIndexOf(true) + 1) };
}

/** Ours: the heatmap is not among the components of @grafana/ui. */
function Heat({ panel, data, width, height, timeRange, theme }) {
  const [left, top, bottom] = [64, 12, 22];
  const { most, rows } = buckets(data);
  const [begin, end] = [timeRange.from.valueOf(), timeRange.to.valueOf()];
  const across = (time) => left + ((time - begin) / (end - begin)) * (width - left);
  const tall = (height - top - bottom) / rows.length;
  const seconds = getValueFormat(panel.options.yAxis.unit);
  const label = ({ bound }) => {
    const { text, suffix } = seconds(bound, 0);
    return `${text}${suffix ?? ''}`;
  };
  const ticks = Array.from({ length: 7 }, (_, at) => begin + (at * (end - begin)) / 6);
  const text = { fill: theme.colors.text.primary, fontSize: 12 };
  return (
    <svg width={width} height={height}>
      {rows.map((row, index) => {
        const upper = height - bottom - (index + 1) * tall;
        return (
          <g key={row.bound}>
            {row.times.map((time, at) => (
              <rect
                {...{ key: time, x: across(time), y: upper, height: tall - 1 }}
                width={across(row.times[1]) - across(row.times[0])}
                fill={theme.visualization.getColorByName('blue')}
                fillOpacity={Math.sqrt(row.counts[at] / most)}
              />
            ))}
            <text {...text} x={left - 6} y={upper + 4} textAnchor="end">
              {label(row)}
            </text>
          </g>
        );
      })}
      {ticks.slice(1, -1).map((time) => (
        <text {...text} key={time} x={across(time)} y={height - 6} textAnchor="middle">
          {dateTime(time).utc().format('HH:mm')}
        </text>
      ))}
    </svg>
  );
}

const KINDS = { heatmap: Heat, stat: Stat, bargauge: Bars, timeseries: Lines, table: Rows };

function Content(props) {
  const { panel, data } = props;
  if (empty(data) && panel.type !== 'stat') {
    const style = { display: 'grid', placeItems: 'center', height: props.height, padding: 16 };
    return <div style={{ ...style, textAlign: 'center' }}>{panel.fieldConfig.defaults.noValue}</div>;
  }
  const Kind = KINDS[panel.type];
  return <Kind {...props} />;
}

function Board({ board, chosen, events, prepared, theme, timeRange, width, version }) {
  const cell = (width - GAP) / 24;
  const place = ({ x, y, w, h }) => ({
    ...{ position: 'absolute', left: GAP + x * cell, top: y * (UNIT + GAP) },
    ...{ width: w * cell - GAP, height: h * (UNIT + GAP) - GAP },
  });
  const height = Math.max(...board.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  const { colors, typography } = theme;
  const chip = {
    ...{ border: `1px solid ${colors.border.medium}`, borderRadius: 2, marginRight: 8 },
    ...{ display: 'inline-flex', background: colors.background.primary },
  };
  return (
    <div style={{ background: colors.background.canvas, color: colors.text.primary, width }}>
      <div style={{ padding: `12px ${GAP}px 8px` }}>
        <div style={{ ...typography.h4, marginBottom: 8 }}>{board.title}</div>
        {chosen.map(({ label, value }) => (
          <span key={label} style={chip}>
            <span style={{ padding: '4px 8px', color: colors.text.secondary }}>{label}</span>
            <span style={{ padding: '4px 8px' }}>{value}</span>
          </span>
        ))}
        {board.annotations.list.map(({ name, iconColor }) => (
          <span key={name} style={chip}>
            <span style={{ padding: '4px 8px', color: theme.visualization.getColorByName(iconColor) }}>
              ●
            </span>
            <span style={{ padding: '4px 8px 4px 0', color: colors.text.secondary }}>{name}</span>
          </span>
        ))}
      </div>
      <div style={{ position: 'relative', height: height * (UNIT + GAP) }}>
        {board.panels.map((panel) =>
          panel.type === 'row' ? (
            <div key={panel.id} style={{ ...place(panel.gridPos), ...typography.h5, paddingTop: 6 }}>
              {panel.title}
            </div>
          ) : (
            <div key={panel.id} style={place(panel.gridPos)}>
              <PanelChrome
                {...{ title: panel.title, description: panel.description }}
                width={place(panel.gridPos).width}
                height={place(panel.gridPos).height}
                padding={panel.type === 'table' ? 'none' : 'md'}
              >
                {(innerWidth, innerHeight) => (
                  <Content
                    {...{ panel, theme, timeRange, events, data: prepared.get(panel.id) }}
                    {...{ width: innerWidth, height: innerHeight }}
                  />
                )}
              </PanelChrome>
            </div>
          )
        )}
      </div>
      <div style={{ ...typography.bodySmall, color: colors.text.secondary, padding: GAP }}>
        Simulated nodes, drawn from the dashboard's JSON by Grafana's components (@grafana/ui {version}),
        not by a Grafana server.
      </div>
    </div>
  );
}

window.draw = async ({ board, answers, events, chosen, from, to, step, width, mode, version }) => {
  const theme = createTheme({
    ...{ colors: { mode } },
    typography: { fontFamily: "'Inter Variable', sans-serif" },
  });
  const prepared = new Map();
  for (const panel of board.panels) {
    if (panel.type !== 'row') {
      prepared.set(panel.id, await prepare(panel, answers[panel.id], step, theme));
    }
  }
  const range = { from: dateTime(from * 1000), to: dateTime(to * 1000) };
  const timeRange = { ...range, raw: range };
  createRoot(document.getElementById('board')).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Board {...{ board, chosen, events, prepared, theme, timeRange, width, version }} />
    </ThemeContext.Provider>
  );
};
