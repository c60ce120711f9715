# SPDX-License-Identifier: Apache-2.0
# Written by `make docs` from the parser of the command: do not edit.
# Made with shtab, https://github.com/tqdm/shtab

function _shtab_xdpscope_scan
  set -g _shtab_xdpscope_cmdpath ''
  set -g _shtab_xdpscope_npos 0
  set -l tokens (commandline -opc)
  set -e tokens[1]
  set -l expect_value 0
  for t in $tokens
    if test $expect_value -eq 1
      set expect_value 0
      continue
    end
    switch "$t"
      case '--*=*'
        continue
      case '-*'
        if contains -- $t $_shtab_xdpscope_opts_with_value
          set expect_value 1
        end
        continue
      case '*'
        if test $_shtab_xdpscope_npos -eq 0
          set -l candidate $t
          if test -n "$_shtab_xdpscope_cmdpath"
            set candidate "$_shtab_xdpscope_cmdpath $t"
          end
          if contains -- $candidate $_shtab_xdpscope_commands
            set -g _shtab_xdpscope_cmdpath $candidate
            continue
          end
        end
        set -g _shtab_xdpscope_npos (math $_shtab_xdpscope_npos + 1)
    end
  end
end

# Condition helper: true if the current (sub)command path equals the given one.
function _shtab_xdpscope_using
  _shtab_xdpscope_scan
  test "$_shtab_xdpscope_cmdpath" = "$argv"
end

set -g _shtab_xdpscope_commands run list doctor check-config flows trace capture help
set -g _shtab_xdpscope_opts_with_value --ca --cert --config --connect --count --destination --emit --inner --interface --keep --key --last --limit --listen --log-format --log-level --min-latency --netns --on --port --program --protocol --rotate --seconds --snaplen --sort --source --verdict --write -w

complete -c xdpscope -e
complete -c xdpscope -f

complete -c xdpscope -n _shtab_xdpscope_using -s h -l help -d 'show this help message and exit'
complete -c xdpscope -n _shtab_xdpscope_using -l version -d 'show program'"'"'s version number and exit'
complete -c xdpscope -n _shtab_xdpscope_using -l log-level -xka "debug info warning error" -d 'the least severe level to log: debug, info, warning or error'
complete -c xdpscope -n _shtab_xdpscope_using -l log-format -xka "console json" -d 'console or json; console is the default on a terminal'
complete -c xdpscope -n '_shtab_xdpscope_using; and test $_shtab_xdpscope_npos -eq 0' -a run -d 'Find and trace XDP programs, and serve what they do as metrics.'
complete -c xdpscope -n '_shtab_xdpscope_using run' -s h -l help -d 'show this help message and exit'
complete -c xdpscope -n '_shtab_xdpscope_using run' -l log-level -xka "debug info warning error" -d 'the least severe level to log: debug, info, warning or error'
complete -c xdpscope -n '_shtab_xdpscope_using run' -l log-format -xka "console json" -d 'console or json; console is the default on a terminal'
complete -c xdpscope -n '_shtab_xdpscope_using run' -l config -xka "(__fish_complete_path (commandline -ct))" -d 'the configuration; without one, every key has its default'
complete -c xdpscope -n '_shtab_xdpscope_using run' -l listen -x -d 'instead of `listen` in the configuration'
complete -c xdpscope -n '_shtab_xdpscope_using; and test $_shtab_xdpscope_npos -eq 0' -a list -d 'List every XDP program and whether it can be traced.'
complete -c xdpscope -n '_shtab_xdpscope_using list' -s h -l help -d 'show this help message and exit'
complete -c xdpscope -n '_shtab_xdpscope_using list' -l log-level -xka "debug info warning error" -d 'the least severe level to log: debug, info, warning or error'
complete -c xdpscope -n '_shtab_xdpscope_using list' -l log-format -xka "console json" -d 'console or json; console is the default on a terminal'
complete -c xdpscope -n '_shtab_xdpscope_using list' -l json -d 'print JSON for machines'
complete -c xdpscope -n '_shtab_xdpscope_using list' -l watch -d 'print again every 2 seconds, or so many, until Ctrl-C'
complete -c xdpscope -n '_shtab_xdpscope_using list' -l connect -x -d 'where this host'"'"'s agent listens, for the counts (http://127.0.0.1:10091); a user and a password come from http://USER:PASSWORD@HOST:PORT, or from XDPSCOPE_USER and XDPSCOPE_PASSWORD'
complete -c xdpscope -n '_shtab_xdpscope_using list' -l ca -xka "(__fish_complete_path (commandline -ct))" -d 'certificates of authorities to trust, in PEM format'
complete -c xdpscope -n '_shtab_xdpscope_using list' -l cert -xka "(__fish_complete_path (commandline -ct))" -d 'the client'"'"'s certificate, for an agent that asks for one, in PEM format'
complete -c xdpscope -n '_shtab_xdpscope_using list' -l key -xka "(__fish_complete_path (commandline -ct))" -d 'its key, unless it is in the same file, in PEM format'
complete -c xdpscope -n '_shtab_xdpscope_using; and test $_shtab_xdpscope_npos -eq 0' -a doctor -d 'Check whether XDP programs can be traced on this host.'
complete -c xdpscope -n '_shtab_xdpscope_using doctor' -s h -l help -d 'show this help message and exit'
complete -c xdpscope -n '_shtab_xdpscope_using doctor' -l log-level -xka "debug info warning error" -d 'the least severe level to log: debug, info, warning or error'
complete -c xdpscope -n '_shtab_xdpscope_using doctor' -l log-format -xka "console json" -d 'console or json; console is the default on a terminal'
complete -c xdpscope -n '_shtab_xdpscope_using doctor' -l json -d 'print JSON for machines'
complete -c xdpscope -n '_shtab_xdpscope_using doctor' -l config -xka "(__fish_complete_path (commandline -ct))" -d 'the agent'"'"'s configuration, to be checked too'
complete -c xdpscope -n '_shtab_xdpscope_using doctor' -l clean -d 'check nothing; remove what an agent with that configuration has left pinned'
complete -c xdpscope -n '_shtab_xdpscope_using; and test $_shtab_xdpscope_npos -eq 0' -a check-config -d 'Validate a configuration without running anything.'
complete -c xdpscope -n '_shtab_xdpscope_using check-config' -s h -l help -d 'show this help message and exit'
complete -c xdpscope -n '_shtab_xdpscope_using check-config' -l log-level -xka "debug info warning error" -d 'the least severe level to log: debug, info, warning or error'
complete -c xdpscope -n '_shtab_xdpscope_using check-config' -l log-format -xka "console json" -d 'console or json; console is the default on a terminal'
complete -c xdpscope -n '_shtab_xdpscope_using check-config; and test $_shtab_xdpscope_npos -eq 0' -ka "(__fish_complete_path (commandline -ct))" -d 'the configuration'
complete -c xdpscope -n '_shtab_xdpscope_using; and test $_shtab_xdpscope_npos -eq 0' -a flows -d 'List the flows that a running agent holds.'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -s h -l help -d 'show this help message and exit'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l log-level -xka "debug info warning error" -d 'the least severe level to log: debug, info, warning or error'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l log-format -xka "console json" -d 'console or json; console is the default on a terminal'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l connect -x -d 'the agent'"'"'s address (http://127.0.0.1:10091); a user and a password come from http://USER:PASSWORD@HOST:PORT, or from XDPSCOPE_USER and XDPSCOPE_PASSWORD'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l ca -xka "(__fish_complete_path (commandline -ct))" -d 'certificates of authorities to trust, in PEM format'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l cert -xka "(__fish_complete_path (commandline -ct))" -d 'the client'"'"'s certificate, for an agent that asks for one, in PEM format'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l key -xka "(__fish_complete_path (commandline -ct))" -d 'its key, unless it is in the same file, in PEM format'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l program -x -d 'of this program: id, tag or entry function, which may be a shell glob'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l verdict -xka "aborted drop pass tx redirect unknown" -d 'with this verdict: aborted, drop, pass, tx, redirect or unknown'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l source -x -d 'from this address or network'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l destination -x -d 'to this address or network'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l protocol -x -d 'of this protocol: tcp, udp, icmp …, or its number'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l port -x -d 'from or to this port'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l interface -x -d 'on this interface; may be a shell glob'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l netns -x -d 'in this network namespace; may be a shell glob'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l sort -xka "rate packets bytes" -d 'the largest first: rate (the default), packets or bytes'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l limit -x -d 'at most so many (100)'
complete -c xdpscope -n '_shtab_xdpscope_using flows' -l json -d 'print JSON for machines'
complete -c xdpscope -n '_shtab_xdpscope_using; and test $_shtab_xdpscope_npos -eq 0' -a trace -d 'Print a line for each packet, with its verdict.'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -s h -l help -d 'show this help message and exit'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l log-level -xka "debug info warning error" -d 'the least severe level to log: debug, info, warning or error'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l log-format -xka "console json" -d 'console or json; console is the default on a terminal'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l program -x -d 'of this program: id, tag or entry function, which may be a shell glob; repeatable'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l interface -x -d 'of this interface; may be a shell glob; repeatable'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l netns -x -d 'in this network namespace (host is the agent'"'"'s own); may be a shell glob; repeatable'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l verdict -xka "aborted drop pass tx redirect unknown" -d 'with one of these verdicts: aborted, drop, pass, tx, redirect, unknown'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l min-latency -x -d 'inside the program for at least so long, such as 20us'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l inner -x -d 'with a packet inside that matches this expression: in VXLAN, Geneve, GRE, IPIP or GTP-U; '"'"''"'"' matches each'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l count -x -d 'after N packets'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l seconds -x -d 'after S seconds'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l emit -xka "entry exit entry,exit" -d 'entry, exit or entry,exit (the default): where packets are shown'
complete -c xdpscope -n '_shtab_xdpscope_using trace' -l json -d 'print JSON for machines, one line each'
complete -c xdpscope -n '_shtab_xdpscope_using; and test $_shtab_xdpscope_npos -eq 0' -a capture -d 'Write packets with their verdicts to a pcapng file.'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -s h -l help -d 'show this help message and exit'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l log-level -xka "debug info warning error" -d 'the least severe level to log: debug, info, warning or error'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l log-format -xka "console json" -d 'console or json; console is the default on a terminal'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -s w -l write -x -d 'the pcapng file; - is standard output'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l program -x -d 'of this program: id, tag or entry function, which may be a shell glob; repeatable'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l interface -x -d 'of this interface; may be a shell glob; repeatable'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l netns -x -d 'in this network namespace (host is the agent'"'"'s own); may be a shell glob; repeatable'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l verdict -xka "aborted drop pass tx redirect unknown" -d 'with one of these verdicts: aborted, drop, pass, tx, redirect, unknown'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l min-latency -x -d 'inside the program for at least so long, such as 20us'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l inner -x -d 'with a packet inside that matches this expression: in VXLAN, Geneve, GRE, IPIP or GTP-U; '"'"''"'"' matches each'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l count -x -d 'after N packets'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l seconds -x -d 'after S seconds'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l emit -xka "entry exit both" -d 'entry, exit or both (the default): where packets are captured'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l snaplen -x -d 'bytes of each packet, 65535 at most (the default)'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l rotate -x -d 'begin another file after so many bytes, such as 100M; names get a number'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l keep -x -d 'keep the last N of these files'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l last -x -d 'keep the last N packets in memory, and write them when EVENT comes'
complete -c xdpscope -n '_shtab_xdpscope_using capture' -l on -x -d 'a verdict such as aborted, drop>1000/s, drop-ratio>10% or SIGUSR1'
complete -c xdpscope -n '_shtab_xdpscope_using; and test $_shtab_xdpscope_npos -eq 0' -a help -d 'Explain a command.'
complete -c xdpscope -n '_shtab_xdpscope_using help' -s h -l help -d 'show this help message and exit'
complete -c xdpscope -n '_shtab_xdpscope_using help' -l log-level -xka "debug info warning error" -d 'the least severe level to log: debug, info, warning or error'
complete -c xdpscope -n '_shtab_xdpscope_using help' -l log-format -xka "console json" -d 'console or json; console is the default on a terminal'
complete -c xdpscope -n '_shtab_xdpscope_using help; and test $_shtab_xdpscope_npos -eq 0' -ka "run list doctor check-config flows trace capture help" -d 'the command; without one, all commands are listed'
