package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"
)

// withOutput gives a command the flag for its output's format; the first one is the default.
func withOutput(o *options, cmd *cobra.Command, formats ...string) *cobra.Command {
	cmd.Flags().StringVarP(&o.output, "output", "o", formats[0], "format: "+strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(formats, o.output) {
			return usage("output %q is none of %s", o.output, strings.Join(formats, ", "))
		}
		return nil
	}
	return cmd
}

// A table says how a list is printed.
type table[T any] struct {
	columns []string
	wide    []string // the further columns of -o wide
	cells   func(T) []string
}

// rows returns a row with the titles, and one for each element of the list. An empty cell gets a dash.
func (t table[T]) rows(l []T, wide bool) [][]string {
	rows := [][]string{slices.Concat(t.columns, t.wide)}
	for _, v := range l {
		rows = append(rows, t.cells(v))
	}
	for i, row := range rows {
		if !wide {
			rows[i] = row[:len(t.columns)]
		}
		for j, cell := range row {
			row[j] = orDash(cell)
		}
	}
	return rows
}

// show returns a function that prints a list in the wanted format. It takes what a call of the daemon
// returns: if that failed, it returns the error.
func show[T any](o *options, cmd *cobra.Command, t table[T]) func([]T, error) error {
	return func(l []T, err error) error {
		w := cmd.OutOrStdout()
		if err != nil {
			return err
		}
		if o.output == "json" || o.output == "yaml" {
			return encode(w, o.output, l)
		}
		if len(l) == 0 {
			_, err := fmt.Fprintln(w, "Nothing there.")
			return err
		}
		return printTable(w, t.rows(l, o.output == "wide"))
	}
}

func encode(w io.Writer, output string, v any) error {
	if output == "yaml" {
		b, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// done says what was done, or returns the error that it failed with.
func done(cmd *cobra.Command, err error, format string, args ...any) error {
	if err == nil {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
	}
	return err
}

func printTable(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

func joined(l []string) string { return strings.Join(l, ",") }

func orDash(s string) string { return cmp.Or(s, "-") }

func pairs(m map[string]string) string {
	var l []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		l = append(l, k+"="+m[k])
	}
	return joined(l)
}

func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(time.Since(t))
}
