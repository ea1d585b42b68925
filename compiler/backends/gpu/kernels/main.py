def main():
    """`python model.py INPUTS.npz OUTPUTS.npz`: arrays by name, the first axis counting samples."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} INPUTS.npz OUTPUTS.npz (TRITON_INTERPRET=1: on the CPU)")
    with np.load(sys.argv[1], allow_pickle=False) as archive:
        inputs = {name: archive[name] for name in INPUTS}
    model, parts = Model(), []
    for start in range(0, len(inputs[INPUTS[0]]), MAX_BATCH):
        made = model({name: array[start : start + MAX_BATCH] for name, array in inputs.items()})
        parts.append({name: value.cpu().numpy() for name, value in made.items()})
    np.savez(sys.argv[2], **{name: np.concatenate([part[name] for part in parts]) for name in OUTPUTS})


if __name__ == "__main__":
    main()
