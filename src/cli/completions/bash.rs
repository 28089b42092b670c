//! The script for bash. Bash splits the words of a line also at `@`, `=` and `:`, which are parts of the names of instances; the
//! script joins them again, and returns only the rest of a name that bash completes.

use std::ffi::OsString;
use std::io::{Error, Write};
use std::path::Path;

use clap_complete::env::{self, EnvCompleter};

pub(super) struct Bash;

const SCRIPT: &str = r#"_ablate_complete() {
    local IFS=$'\013'
    local words=() rest=$COMP_LINE trimmed word i
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        trimmed=${rest#"${rest%%[![:space:]]*}"}
        if ((i == 0)) || [[ $trimmed != "$rest" ]]; then
            words+=("")
        fi
        rest=${trimmed#"$word"}
        # The word at the cursor ends there. After `@`, `=` or `:`, bash passes no word.
        if ((i == COMP_CWORD)) && [[ -n $2 || $word != [@=:] ]]; then
            word=$2
        fi
        words[${#words[@]} - 1]+=$word
    done
    local current=${words[${#words[@]} - 1]}
    local prefix=${current%"$2"}
    COMPREPLY=( $( \
        _CLAP_IFS="$IFS" \
        _CLAP_COMPLETE_INDEX="$((${#words[@]} - 1))" \
        VARIABLE=bash \
        COMPLETER -- "${words[@]}" 2> /dev/null \
    ) )
    if [[ $? != 0 ]]; then
        unset COMPREPLY
        return
    fi
    COMPREPLY=( "${COMPREPLY[@]#"$prefix"}" )
    if ((${#COMPREPLY[@]} == 1)) && [[ ${COMPREPLY[0]} != *[=/:@] ]]; then
        COMPREPLY[0]+=" "
    fi
}
complete -o nospace -o bashdefault -F _ablate_complete BIN
"#;

impl EnvCompleter for Bash {
    fn name(&self) -> &'static str {
        "bash"
    }

    fn is(&self, name: &str) -> bool {
        name == "bash"
    }

    fn write_registration(
        &self,
        variable: &str,
        _name: &str,
        bin: &str,
        completer: &str,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        let script = SCRIPT.replace("VARIABLE", variable).replace("COMPLETER", completer).replace("BIN", bin);
        out.write_all(script.as_bytes())
    }

    fn write_complete(
        &self,
        command: &mut clap::Command,
        words: Vec<OsString>,
        folder: Option<&Path>,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        env::Bash.write_complete(command, words, folder, out)
    }
}
