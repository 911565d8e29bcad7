package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

func outputFlag(cmd *cobra.Command, o *options, formats ...string) {
	cmd.Flags().StringVarP(&o.output, "output", "o", formats[0], "format: "+strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(formats, o.output) {
			return usage("output %q is none of %s", o.output, strings.Join(formats, ", "))
		}
		return nil
	}
}

// show prints a list in the wanted format, or returns the error that came with it.
func show[T any](w io.Writer, output string, l []T, err error, table func([]T, bool) [][]string) error {
	if err != nil {
		return err
	}
	if output == "json" || output == "yaml" {
		return encode(w, output, l)
	}
	if len(l) == 0 {
		_, err := fmt.Fprintln(w, "Nothing there.")
		return err
	}
	return printTable(w, table(l, output == "wide"))
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

func printTable(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

func joined(l []string) string { return strings.Join(l, ",") }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

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
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
