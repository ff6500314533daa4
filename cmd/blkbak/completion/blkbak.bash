# bash completion for blkbak

_blkbak() {
    local line=${COMP_LINE:0:COMP_POINT} words=() n=-1 i gap part
    # Bash breaks words at "=", ":" and "@" too, which ours may contain: join
    # again what no blank stands between.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        gap=${line%%[![:space:]]*}
        line=${line#"$gap"}
        part=${COMP_WORDS[i]}
        ((i == COMP_CWORD)) && part=$line # up to the cursor
        if ((n < 0)) || [[ $gap ]]; then
            words[++n]=$part
        else
            words[n]+=$part
        fi
        line=${line#"$part"}
    done

    # What stands before the last break stays on the line as it is.
    local cur=${words[n]} keep= breaks=${COMP_WORDBREAKS//[^=:@]/}
    [[ $breaks ]] && keep=${cur%"${cur##*[$breaks]}"}

    COMPREPLY=()
    local paths= word text
    while IFS=$'\t' read -r word text; do
        if [[ ! $paths ]]; then
            paths=$word
        else
            COMPREPLY+=("${word#"$keep"}")
        fi
    done < <("${words[0]}" __complete -- "${words[@]:1}" 2>/dev/null)

    local kind=
    case $paths in
    files) kind=-f ;;
    dirs) kind=-d ;;
    *) return ;;
    esac
    compopt -o filenames 2>/dev/null
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <(compgen "$kind" -- "${cur#"$keep"}")
}

complete -F _blkbak blkbak
